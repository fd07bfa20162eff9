//! The command line from outside: arguments and environment in, output or error out.
//!
//! Owns the checks of each subcommand and of the help text. Knows nothing of clap: only `run` is called.

use std::path::PathBuf;

use super::*;

/// Words are split at spaces; `'` keeps nothing together, so values here have none.
fn try_run(line: &str, env: &[(&str, &str)]) -> (Result<Action, String>, String) {
    let args = line.split(' ').map(OsString::from);
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let mut out = Vec::new();
    let result = run(args, env, &mut out).map_err(|error| error.to_string());
    (result, String::from_utf8(out).unwrap())
}

fn output(line: &str, env: &[(&str, &str)]) -> String {
    let (result, out) = try_run(line, env);
    assert!(matches!(result, Ok(Action::Done)), "{line}: {result:?}");
    out
}

fn error(line: &str, env: &[(&str, &str)]) -> String {
    let (result, out) = try_run(line, env);
    assert_eq!(out, "", "{line}");
    let error = result.unwrap_err();
    assert!(error.ends_with('\n') && !error.ends_with("\n\n"), "{error:?}");
    error
}

fn served(line: &str, env: &[(&str, &str)]) -> Config {
    match try_run(line, env).0 {
        Ok(Action::Serve(config, ..)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

/// A file that is gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("gannet-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Scratch(path)
    }
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn no_command_serves() {
    assert_eq!(served("gannet", &[]), Config::default());
    assert_eq!(served("gannet serve", &[("PATH", "/bin")]), Config::default());
    assert_eq!(served("gannet --reactors 2", &[]).reactors, 2);
    assert_eq!(served("gannet serve --http_server.port=9000", &[]).http_server.port, 9000);
    let both = served("gannet --reactors 2 serve --http_server.port 9000", &[]);
    assert_eq!((both.reactors, both.http_server.port), (2, 9000));
    assert!(served("gannet --dev", &[]).client.insecure);
}

#[test]
fn a_boolean_flag_needs_no_value() {
    assert!(served("gannet --echo.enabled", &[]).echo.enabled);
    assert!(served("gannet --echo.enabled --reactors 1", &[]).echo.enabled);
    assert!(served("gannet --echo.enabled serve", &[]).echo.enabled);
    assert!(served("gannet --echo.enabled=true", &[]).echo.enabled);
    assert!(!served("gannet --health.enabled=false", &[]).health.enabled);
    let spaced = served("gannet --health.enabled false serve --echo.enabled true", &[]);
    assert!(!spaced.health.enabled && spaced.echo.enabled);
    let served_by_centrifugo = ["graphite", "debug", "swagger"];
    for section in served_by_centrifugo {
        let text = output(&format!("gannet check --{section}.enabled --echo.enabled"), &[]);
        assert!(text.contains(&format!("warning: --{section}.enabled: is not there yet: ")), "{text}");
    }
    for wrong in ["gannet check --webtransport.enabled", "gannet --webtransport.enabled serve"] {
        assert!(error(wrong, &[]).contains("a Centrifugo option that this version does not support yet"), "{wrong}");
    }
    assert!(error("gannet --health.enabled=no", &[]).contains("expected true or false; got \"no\""));
}

#[test]
fn centrifugo_s_short_flags() {
    let short = served("gannet -a 127.0.0.1 -p 9000", &[]);
    assert_eq!((short.http_server.address.as_str(), short.http_server.port), ("127.0.0.1", 9000));
    assert_eq!(served("gannet serve -p9001", &[]).http_server.port, 9001);
    assert_eq!(served("gannet --http_server.internal_port=", &[]), Config::default());
}

#[test]
fn the_file_is_found_by_flag_or_variable() {
    let first = Scratch::new("first.toml", "reactors = 1");
    let second = Scratch::new("second.yaml", "reactors: 2");
    let variable = [("GANNET_CONFIG", second.path())];
    assert_eq!(served("gannet", &variable).reactors, 2);
    assert_eq!(served(&format!("gannet -c {}", first.path()), &variable).reactors, 1);
    assert_eq!(served(&format!("gannet --config={} serve", first.path()), &[]).reactors, 1);
    assert_eq!(served(&format!("gannet serve --config {}", first.path()), &[]).reactors, 1);
    assert_eq!(served("gannet", &[("GANNET_CONFIG", "")]).reactors, 0);
    let twice = error(&format!("gannet -c {0} check -c {0}", first.path()), &[]);
    assert_eq!(twice, "error: command line: --config: is given twice\n");
    let missing = error("gannet -c /nowhere/gannet.toml", &[]);
    assert!(missing.starts_with("error: /nowhere/gannet.toml: No such file"), "{missing}");
}

#[test]
fn every_problem_of_every_source_is_told_at_once() {
    let file = Scratch::new("bad.toml", "[client]\nping_intervall = '1s'\nchannel_limit = 9999999");
    let env = [("GANNET_REACTORS", "9999"), ("GANNET_COLOUR", "blue")];
    let line = format!("gannet --log.levle debug check -c {} --map_broker redis --http_server.port x", file.path());
    let text = error(&line, &env);
    let (lines, warnings): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("error: "));
    assert_eq!(lines.len(), 6, "{text}");
    assert!(warnings.iter().all(|line| line.starts_with("warning: ")), "{text}");
    assert!(warnings.iter().any(|line| line.contains("GANNET_COLOUR: not read: unknown option")), "{text}");
    let expected = [
        "bad.toml: unknown option client.ping_intervall; did you mean client.ping_interval?",
        "command line: --http_server.port: expected a whole number, 0 to 65535; got \"x\"",
        "command line: unknown option --log.levle; did you mean --log.level?",
        "command line: --map_broker: a Centrifugo option that this version does not support yet",
        "environment: GANNET_REACTORS: expected a whole number, 0 to 1024; got 9999",
        "bad.toml: client.channel_limit: expected a whole number, 1 to 1048576; got 9999999",
    ];
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "{line}\n{part}");
    }
}

#[test]
fn wrong_arguments_are_clap_s_to_tell() {
    assert!(error("gannet serv", &[]).contains("unrecognized subcommand 'serv'"));
    for (theirs, ours) in [
        ("checkconfig -c c.json", "checkconfig is a command of Centrifugo: write `gannet check`"),
        ("genconfig", "write `gannet init`"),
        ("gentoken -u 42", "write `gannet token connection`"),
    ] {
        let told = error(&format!("gannet {theirs}"), &[]);
        assert!(told.starts_with("error: ") && told.contains(ours) && told.lines().count() == 1, "{told}");
    }
    assert!(error("gannet --reactors", &[]).contains("a value is required"));
    assert!(error("gannet --reactors 1 --reactors 2", &[]).contains("cannot be used multiple times"));
    assert!(error("gannet --reactors 1 check --reactors 2", &[]).contains("--reactors: is given twice"));
    assert!(error("gannet check --user 42", &[]).contains("unexpected argument '--user'"));
    let both = error("gannet token --colour blue", &[]);
    assert!(both.contains("unknown option --colour") && both.contains("--user <USER>"), "{both}");
    assert!(error("gannet version --colour", &[]).contains("unknown option --colour"));
}

#[test]
fn check_tells_warnings() {
    let secure =
        "gannet check --client.token.hmac_secret_key 0123456789abcdef0123456789abcdef --client.allowed_origins *";
    assert_eq!(output(secure, &[]), "config ok\n");
    let text = output("gannet check --dev", &[]);
    assert!(text.starts_with("warning: dev: "), "{text}");
    let theirs = output(&format!("{secure} --usage_stats.disabled true"), &[("CENTRIFUGO_CLIENT_CONCURRENCY", "8")]);
    assert!(theirs.contains("warning: CENTRIFUGO_CLIENT_CONCURRENCY: not read: 1 such variables"), "{theirs}");
    assert!(theirs.contains("warning: --usage_stats.disabled: has no effect here: "), "{theirs}");
    assert!(text.ends_with("\nconfig ok\n"), "{text}");
}

#[test]
fn config_prints_what_loads_again() {
    let line = "gannet config --reactors 3 --client.allowed_origins a://b,c://d --prometheus.enabled";
    for (format, name) in [("", "again.toml"), (" --format yaml", "again.yaml"), (" --format json", "again.json")] {
        let file = Scratch::new(name, &output(&format!("{line}{format}"), &[]));
        let again = served(&format!("gannet -c {}", file.path()), &[]);
        assert_eq!(again, served(&line.replace(" config", ""), &[]), "{name}");
    }
    assert!(error("gannet config --format xml", &[]).contains("[possible values: toml, yaml, json]"));
}

#[test]
fn token_is_signed_with_the_configured_key() {
    let key = [("GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY", "hush")];
    let text = output("gannet token --user 42 --info {\"a\":1} --expires-in 90s --alg HS512", &key);
    assert_eq!(text.trim_end().split('.').count(), 3, "{text}");
    assert_eq!(text.lines().count(), 1);
    assert!(error("gannet token --user 42", &[]).contains("client.token.hmac_secret_key is empty"));
    assert!(error("gannet token", &key).contains("--user <USER>"));
    assert!(error("gannet token connection", &key).contains("--user <USER>"));
    assert!(error("gannet token subscription --user 1", &key).contains("--channel <CHANNEL>"));
    assert!(error("gannet token --user 1 --ttl 5", &key).contains("expected a duration"));
    assert!(error("gannet token --user 1 --info {", &key).contains("--info: expected JSON"));
    assert!(error("gannet token --user 1 --alg RS256", &key).contains("HS256, HS384, HS512"));
}

/// Made with openssl.
const ED25519_SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":"C00BQwrc8NL3QBNmlU_xUNFGVKfdkvLJbOfnw0Slkds"}]}"#;
const ED25519_TOKEN: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6Im9uZSJ9.eyJzdWIiOiI0MiJ9.yBPUWXNEUFJMNgMWni-IOk3bEczB3VeBTpX6xEONv2iKopfnjKTdU3imasHGs-EaCnWaqwdoavvhYnd3K8OgAw";

/// What `gannet token check` says, and whether it is yes.
fn checked(token: &str, more: &str, env: &[(&str, &str)]) -> (bool, String) {
    let (result, out) = try_run(&format!("gannet token check {}{more}", token.trim_end()), env);
    match result {
        Ok(Action::Done) => (true, out),
        Ok(Action::No) => (false, out),
        other => panic!("{token}: {other:?}"),
    }
}

#[test]
fn a_token_is_checked_as_the_server_would() {
    let file = Scratch::new("keys.toml", "[client.token]\nhmac_secret_key = 'hush'");
    let key = [("GANNET_CONFIG", file.path())];
    let token = output(&format!("gannet token connection --user 42 -c {}", file.path()), &[]);
    let (good, text) = checked(&token, "", &key);
    assert!(good && text.starts_with("valid connection token\n"), "{text}");
    assert!(text.contains("HS256") && text.contains("expires: in "), "{text}");
    assert!(text.contains("\"sub\": \"42\""), "{text}");
    let (good, text) = checked(&token, " --client.token.hmac_secret_key other", &[]);
    assert!(!good && text.starts_with("invalid: the signature does not fit the key\n"), "{text}");
    let (good, text) = checked(&token, " --client.token.audience here", &key);
    assert!(!good && text.starts_with("invalid: its aud"), "{text}");
    let (good, text) = checked("no-token", "", &key);
    assert_eq!((good, text.as_str()), (false, "invalid: not a JWT\n"));

    let channel = output("gannet token subscription --user 42 --channel c --ttl 0", &key);
    let (good, text) = checked(&channel, "", &key);
    assert!(good && text.starts_with("valid subscription token\n") && text.contains("expires: never"), "{text}");
    let (good, text) = checked(&channel, " --client.subscription_token.enabled", &key);
    assert!(!good && text.starts_with("invalid: there is no key"), "{text}");
}

#[test]
fn a_key_set_is_read_from_a_file() {
    let set = Scratch::new("jwks.json", ED25519_SET);
    let env = [("GANNET_CLIENT_TOKEN_JWKS_PUBLIC_ENDPOINT", "https://id.example.com/keys")];
    let wanted = error(&format!("gannet token check {ED25519_TOKEN}"), &env);
    assert!(wanted.contains("the key set at https://id.example.com/keys is wanted"), "{wanted}");
    let (good, text) = checked(ED25519_TOKEN, &format!(" --jwks {}", set.path()), &env);
    assert!(good && text.contains("EdDSA"), "{text}");
    let none = Scratch::new("none.json", "[]");
    let unread = error(&format!("gannet token check {ED25519_TOKEN} --jwks {}", none.path()), &env);
    assert!(unread.contains("no key set"), "{unread}");
}

#[test]
fn version() {
    let expected = format!("gannet {}\n", env!("CARGO_PKG_VERSION"));
    for line in ["gannet --version", "gannet -V"] {
        assert_eq!(output(line, &[("GANNET_COLOUR", "blue")]), expected);
    }
    let long = output("gannet version", &[("GANNET_COLOUR", "blue")]);
    let facts = long.strip_prefix(&expected).expect("the version first");
    let of = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // Tests are not built for a commit.
    assert_eq!(of("commit"), Some("unknown"));
    assert_eq!(of("features").is_some_and(|names| names.contains("jemalloc")), cfg!(feature = "jemalloc"));
    assert!(of("profile").is_some_and(|name| name != "unknown") && of("target").is_some_and(|t| t.contains("linux")));
}

#[test]
fn help_teaches() {
    // Lines are broken to the width of the terminal.
    let long = output("gannet --help", &[]).split_whitespace().collect::<Vec<_>>().join(" ");
    for option in config::options() {
        assert!(long.contains(&format!("--{}", option.name)), "{}", option.name);
    }
    for part in ["Examples:", "GANNET_CLIENT_PING_INTERVAL=25s", "default 65536 (64KiB)", "Channels and who may use"] {
        assert!(long.contains(part), "{part}");
    }
    let short = output("gannet -h", &[]);
    assert!(short.contains("gannet --dev") && short.contains("token"));
    assert!(short.lines().count() < 45 && !short.contains("--client.ping_interval"), "{short}");
    let token = output("gannet token -h", &[]);
    assert!(token.contains("--ttl <DURATION>") && token.contains("subscription") && token.contains("check"), "{token}");
    assert!(output("gannet token subscription -h", &[]).contains("--channel <CHANNEL>"));
    for command in
        ["init", "check", "config", "token", "token check", "doctor", "durable", "completions", "man", "version"]
    {
        let own = output(&format!("gannet {command} --help"), &[]);
        assert!(own.lines().count() < 60 && !own.contains("--client.ping_interval"), "{command}: {own}");
    }
    let serve = output("gannet serve --help", &[]);
    assert!(serve.contains("--client.ping_interval"), "{serve}");
}

#[test]
fn init_writes_what_serves_without_a_word_and_never_over_a_file() {
    for name in ["init.toml", "init.yaml", "init.json"] {
        let file = Scratch::new(name, "");
        let line = format!("gannet init {}", file.path());
        assert!(error(&line, &[]).contains("is there already"), "{line}");
        std::fs::remove_file(&file.0).unwrap();
        assert!(output(&line, &[]).contains("is written"));
        assert_eq!(output(&format!("gannet check -c {}", file.path()), &[]), "config ok\n");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file.0).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "secrets are for the owner alone");
        assert!(!output(&format!("gannet token --user 42 -c {}", file.path()), &[]).is_empty());
    }
    assert!(output("gannet init - --origin https://example.com", &[]).contains("[\"https://example.com\"]"));
    assert!(error("gannet init gannet.conf", &[]).contains(".toml, .yaml or .json"));
}

#[test]
fn shells_editors_and_man_are_told() {
    let words = output("gannet completions bash", &[]);
    assert!(words.contains("doctor") && words.contains("--client.ping_interval"));
    let schema = output("gannet config --schema", &[("GANNET_REACTORS", "wrong")]);
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["properties"]["client"]["properties"]["insecure"]["type"], "boolean");
    let folder = Scratch(std::env::temp_dir().join(format!("gannet-man-{}", std::process::id())));
    assert!(output(&format!("gannet man {}", folder.path()), &[]).contains("gannet.1"));
    for name in ["gannet.1", "gannet-token.1", "gannet-token-check.1", "gannet-doctor.1"] {
        let page = std::fs::read_to_string(folder.0.join(name)).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"), "{name}: {page:.200}");
    }
    std::fs::remove_dir_all(&folder.0).unwrap();
}
