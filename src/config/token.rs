//! F0 · What the options of tokens mean: keys, what issuer and audience must be, where a key set lies.
//!
//! Owns reading them into values that can be used as they are, so that what `gannet check` accepts is what serves.
//! Never sees a token, and never fetches a key set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regex::Regex;
use regex_syntax::hir::{Capture, Hir, HirKind, Look, literal::Extractor};

use super::key::{EcdsaKey, RsaKey};
use super::registry::{Meta, Visit, Visitor, beside, join};
use super::{Client, Token, fit, url};

/// Key sets that one endpoint may stand for.
const URLS_MAX: usize = 64;

/// The options of [`Token`], in force for subscription tokens if `enabled`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubscriptionToken {
    pub enabled: bool,
    pub token: Token,
}

impl Visit for SubscriptionToken {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        let about = "Whether subscription tokens are checked by this section. Otherwise by client.token.";
        beside(("enabled", about, &mut self.enabled), &mut self.token, meta, visitor);
    }
}

/// What is wrong with an option: its key, and why.
type Fault = (&'static str, String);

/// The options of a section as values.
#[derive(Debug)]
pub struct Wanted {
    pub rsa: Option<RsaKey>,
    pub ecdsa: Option<EcdsaKey>,
    pub endpoint: Option<KeySource>,
    pub audience: Pattern,
    pub issuer: Pattern,
}

/// What a claim must be.
#[derive(Debug)]
pub enum Pattern {
    Any,
    Exact(String),
    Regex(Regex),
}

/// Where key sets lie: one URL, or one for each value that the groups in it can have. The list is made from the
/// configuration alone: a token, whose issuer anyone can invent, only picks from it.
#[derive(Debug)]
pub struct KeySource {
    template: Vec<Part>,
    urls: BTreeSet<Arc<str>>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    /// A named group.
    Group(String),
}

impl Token {
    /// Whether there is anything to check a token with.
    pub fn has_key(&self) -> bool {
        let keys = [&self.hmac_secret_key, &self.hmac_previous_secret_key, &self.rsa_public_key];
        keys.into_iter().chain([&self.ecdsa_public_key, &self.jwks_public_endpoint]).any(|key| !key.is_empty())
    }

    /// Its keys and patterns, or every fault with them.
    pub fn read(&self) -> Result<Wanted, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut keep = |key, error| faults.push((key, error));
        let rsa = given(&self.rsa_public_key).map(|pem| RsaKey::from_pem(pem.trim())).transpose();
        let rsa = rsa.unwrap_or_else(|error| {
            keep("rsa_public_key", error);
            None
        });
        let ecdsa = given(&self.ecdsa_public_key).map(|pem| EcdsaKey::from_pem(pem.trim())).transpose();
        let ecdsa = ecdsa.unwrap_or_else(|error| {
            keep("ecdsa_public_key", error);
            None
        });
        let both = [
            ("audience_regex", "audience", &self.audience_regex, &self.audience),
            ("issuer_regex", "issuer", &self.issuer_regex, &self.issuer),
        ];
        let [audience, issuer] = both.map(|(key, exact_key, regex, exact)| {
            if !regex.is_empty() && !exact.is_empty() {
                keep(key, format!("expected only one of {exact_key} and {key}; both are set"));
            }
            let pattern = pattern(exact, regex);
            pattern.unwrap_or_else(|error| {
                keep(key, error);
                Pattern::Any
            })
        });
        if !self.user_id_claim.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_') {
            keep("user_id_claim", format!("expected letters and underscores; got {:?}", self.user_id_claim));
        }
        let endpoint = match given(&self.jwks_public_endpoint) {
            // The groups of a pattern that cannot be read would be missed here, too.
            Some(_) if !faults.is_empty() => None,
            Some(url) => match KeySource::new(url, &self.audience_regex, &self.issuer_regex) {
                Ok(endpoint) => Some(endpoint),
                Err(error) => {
                    faults.push(("jwks_public_endpoint", error));
                    None
                }
            },
            None => None,
        };
        if faults.is_empty() { Ok(Wanted { rsa, ecdsa, endpoint, audience, issuer }) } else { Err(faults) }
    }

    /// What works and may not be meant.
    fn warnings(&self) -> Vec<(&'static str, String)> {
        let mut warnings = Vec::new();
        let mut warn = |key, message: &str| warnings.push((key, message.to_owned()));
        if self.jwks_public_endpoint.starts_with("http://") {
            warn("jwks_public_endpoint", "is not https: who can change the answer can make tokens");
        }
        let secrets =
            [("hmac_secret_key", &self.hmac_secret_key), ("hmac_previous_secret_key", &self.hmac_previous_secret_key)];
        let public = [("rsa_public_key", &self.rsa_public_key), ("ecdsa_public_key", &self.ecdsa_public_key)];
        if self.jwks_public_endpoint.is_empty() {
            for (key, secret) in secrets {
                if let Some(message) = fit::weak_secret(secret) {
                    warn(key, &message);
                }
            }
        } else {
            for (key, _) in secrets.into_iter().chain(public).filter(|(_, value)| !value.is_empty()) {
                warn(key, "is not used: with jwks_public_endpoint only its keys count");
            }
        }
        for (key, claim) in [("audience", &self.audience), ("issuer", &self.issuer)] {
            if let Some(what) = fit::edge(claim) {
                warn(key, &format!("{what}: only a claim that does is the same"));
            }
        }
        let regexes = [("audience_regex", &self.audience_regex), ("issuer_regex", &self.issuer_regex)];
        for (key, regex) in regexes.into_iter().filter(|(_, regex)| !regex.is_empty()) {
            if regex_syntax::parse(regex).is_ok_and(|hir| !is_anchored(&hir)) {
                warn(key, "may match anywhere within the claim: put it between ^( and )$");
            }
        }
        warnings
    }
}

impl Client {
    /// The options for subscription tokens.
    pub fn token_of_subscriptions(&self) -> &Token {
        if self.subscription_token.enabled { &self.subscription_token.token } else { &self.token }
    }

    fn token_sections(&self) -> [(&'static str, &Token); 2] {
        [("client.token", &self.token), ("client.subscription_token", &self.subscription_token.token)]
    }

    /// Option and message. A section that is not in force is held to its rules as well.
    pub(super) fn token_faults(&self) -> Vec<(String, String)> {
        let named = |path: &str, faults: Vec<Fault>| -> Vec<(String, String)> {
            faults.into_iter().map(|(key, message)| (join(path, key), message)).collect()
        };
        let sections = self.token_sections().into_iter();
        sections.flat_map(|(path, token)| named(path, token.read().err().unwrap_or_default())).collect()
    }

    pub(super) fn token_warnings(&self) -> Vec<(String, String)> {
        let mut warnings = Vec::new();
        let mut warn = |option: &str, message: &str| warnings.push((option.to_owned(), message.to_owned()));
        if self.insecure_skip_token_signature_verify {
            let message = "anyone may write a token and be whom they like";
            warn("client.insecure_skip_token_signature_verify", message);
        }
        let open =
            self.insecure || self.allow_anonymous_connect_without_token || self.insecure_skip_token_signature_verify;
        let open = open || self.proxy.connect.enabled;
        if !self.token.has_key() && !open {
            let message = "is empty, and so is every other key: no token is accepted, so no client can connect";
            warn("client.token.hmac_secret_key", message);
        }
        if !self.subscription_token.enabled && self.subscription_token.token != Token::default() {
            let message = "is false: what client.subscription_token has is not used";
            warn("client.subscription_token.enabled", message);
        }
        for (path, token) in self.token_sections() {
            warnings.extend(token.warnings().into_iter().map(|(key, message)| (join(path, key), message)));
        }
        warnings
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn pattern(exact: &str, regex: &str) -> Result<Pattern, String> {
    match (exact, regex) {
        (_, regex) if !regex.is_empty() => {
            let compiled = Regex::new(regex);
            compiled.map(Pattern::Regex).map_err(|_| format!("expected a regular expression; got {regex:?}"))
        }
        ("", _) => Ok(Pattern::Any),
        (exact, _) => Ok(Pattern::Exact(exact.to_owned())),
    }
}

fn is_anchored(hir: &Hir) -> bool {
    let properties = hir.properties();
    properties.look_set_prefix().contains(Look::Start) && properties.look_set_suffix().contains(Look::End)
}

impl KeySource {
    fn new(url: &str, audience_regex: &str, issuer_regex: &str) -> Result<KeySource, String> {
        let template = template(url)?;
        let mut chosen: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for part in &template {
            if let Part::Group(name) = part {
                chosen.insert(name, values(name, [audience_regex, issuer_regex])?);
            }
        }
        // A group that stands twice has one value at both places.
        let mut picks = vec![BTreeMap::new()];
        for (name, values) in &chosen {
            let with = |pick: &BTreeMap<_, _>, value| pick.clone().into_iter().chain([(*name, value)]).collect();
            picks = picks.iter().flat_map(|pick| values.iter().map(move |value| with(pick, value))).collect();
            if picks.len() > URLS_MAX {
                return Err(format!("expected at most {URLS_MAX} URLs; the values of its groups make more"));
            }
        }
        let mut urls = BTreeSet::new();
        for pick in &picks {
            let url =
                expand(&template, |name| pick.get(name).map(|value: &&String| value.as_str())).unwrap_or_default();
            let url = url::with_plain_scheme(&url);
            if let Some(more) = url::fault(&url, false) {
                let shown = url::shown(&url);
                return Err(format!("expected a URL that begins with https:// or http://{more}; got {shown:?}"));
            }
            urls.insert(url);
        }
        Ok(KeySource { template, urls: urls.into_iter().map(Arc::from).collect() })
    }

    /// Every URL that there is to fetch from.
    pub fn urls(&self) -> impl Iterator<Item = &Arc<str>> {
        self.urls.iter()
    }

    /// The URL for what the named groups matched.
    pub fn url<'a>(&self, group: impl Fn(&str) -> Option<&'a str>) -> Option<&Arc<str>> {
        match self.template.as_slice() {
            [Part::Text(url)] => self.urls.get(url.as_str()),
            parts => self.urls.get(expand(parts, group)?.as_str()),
        }
    }
}

/// Text and groups in turn.
fn template(url: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = url;
    while let Some((text, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or("expected }} after {{")?;
        parts.extend([Part::Text(text.to_owned()), Part::Group(name.trim().to_owned())]);
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

fn expand<'a>(parts: &[Part], group: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let texts = parts.iter().map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Group(name) => group(name),
    });
    texts.collect()
}

/// Everything that the group `name` of one of the patterns can match. Were there no end to it, whoever writes a token
/// would choose the URL, and so the key it is checked with.
fn values(name: &str, regexes: [&str; 2]) -> Result<Vec<String>, String> {
    let hirs: Vec<Hir> = regexes.iter().filter_map(|regex| regex_syntax::parse(regex).ok()).collect();
    let mut groups = Vec::new();
    hirs.iter().for_each(|hir| find_groups(hir, name, &mut groups));
    let [group] = groups[..] else {
        let many = if groups.is_empty() { "no group" } else { "more than one group" };
        return Err(format!("expected (?P<{name}>...) in audience_regex or issuer_regex; {many} has that name"));
    };
    let mut extractor = Extractor::new();
    extractor.limit_class(URLS_MAX).limit_repeat(URLS_MAX).limit_literal_len(256).limit_total(URLS_MAX);
    let found = extractor.extract(group);
    let exact = found.literals().filter(|_| found.is_exact());
    let texts = exact.map(|all| all.iter().map(|one| String::from_utf8(one.as_bytes().to_vec())).collect());
    let Some(Ok(texts)) = texts else {
        return Err(format!("expected a group {name} that lists its values, (?P<{name}>one|two), at most {URLS_MAX}"));
    };
    let texts: Vec<String> = texts;
    match texts.iter().find(|text| !is_plain(text)) {
        Some(text) => Err(format!("expected letters, digits and -_.~ as value of {name}; got {text:?}")),
        None => Ok(texts),
    }
}

fn find_groups<'a>(hir: &'a Hir, name: &str, found: &mut Vec<&'a Hir>) {
    match hir.kind() {
        HirKind::Capture(Capture { name: own, sub, .. }) => {
            if own.as_deref() == Some(name) {
                found.push(sub);
            }
            find_groups(sub, name, found);
        }
        HirKind::Repetition(repetition) => find_groups(&repetition.sub, name, found),
        HirKind::Concat(subs) | HirKind::Alternation(subs) => subs.iter().for_each(|s| find_groups(s, name, found)),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => {}
    }
}

/// Stays within its part of a host's name or of a path, and is not the folder above.
fn is_plain(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b));
    plain && !text.is_empty() && !text.contains("..") && text != "."
}

#[cfg(test)]
mod tests {
    use super::super::{Config, File, load};
    use super::*;
    use rsa::pkcs8::{EncodePublicKey, LineEnding};

    fn faults(token: &Token) -> Vec<&'static str> {
        token.read().err().unwrap_or_default().into_iter().map(|(key, _)| key).collect()
    }

    fn message(token: &Token) -> String {
        token.read().expect_err("a fault").remove(0).1
    }

    fn urls(endpoint: &str, issuer: &str, audience: &str) -> Result<Vec<String>, String> {
        let (issuer_regex, audience_regex) = (issuer.into(), audience.into());
        let token = Token { jwks_public_endpoint: endpoint.into(), issuer_regex, audience_regex, ..Token::default() };
        let wanted = token.read().map_err(|mut faults| faults.remove(0).1)?;
        Ok(wanted.endpoint.expect("an endpoint").urls().map(ToString::to_string).collect())
    }

    #[test]
    fn a_key_must_be_one() {
        let pem = p521::SecretKey::from_slice(&[1; 66][..])
            .or(p521::SecretKey::from_slice(&[&[0; 2], &[1; 64][..]].concat()));
        let ecdsa = pem.expect("a key").public_key().to_public_key_pem(LineEnding::LF).expect("PEM");
        let good = Token { ecdsa_public_key: format!("\n{ecdsa}\n"), ..Token::default() };
        assert!(matches!(good.read().expect("good").ecdsa, Some(EcdsaKey::P521(_))));
        let swapped = Token { rsa_public_key: ecdsa.clone(), ecdsa_public_key: "x".into(), ..Token::default() };
        assert_eq!(faults(&swapped), ["rsa_public_key", "ecdsa_public_key"]);
        let mut modulus = [0; 128];
        (modulus[0], modulus[127]) = (0x80, 1);
        let modulus = rsa::BoxedUint::from_be_slice(&modulus, 1024).expect("a number");
        let weak = rsa::PublicKey::new_unchecked(modulus, 65537u32.into());
        let rsa_public_key = weak.to_public_key_pem(LineEnding::LF).expect("PEM");
        let weak = Token { rsa_public_key, ..Token::default() };
        assert_eq!(message(&weak), "expected a key of 2048 to 4096 bits; got 1024");
    }

    #[test]
    fn each_is_exact_or_a_pattern() {
        let text = |text: &str| text.to_owned();
        let both = Token { issuer: text("a"), issuer_regex: text("a"), audience_regex: text("("), ..Token::default() };
        assert_eq!(faults(&both), ["audience_regex", "issuer_regex"]);
        for good in ["", "user_id", "_U"] {
            assert!(faults(&Token { user_id_claim: text(good), ..Token::default() }).is_empty(), "{good}");
        }
        for bad in ["user-id", "a.b", "claim1", "é", "a b"] {
            assert_eq!(faults(&Token { user_id_claim: text(bad), ..Token::default() }), ["user_id_claim"], "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_one_url_or_a_list() {
        assert_eq!(urls("https://a.b/k?x=1", "", ""), Ok(vec!["https://a.b/k?x=1".to_owned()]));
        assert_eq!(
            urls("http://{{ h }}.b:1/{{p}}/{{h}}", "^(?P<h>one|two)$", "(?:x(?<p>[12]))+"),
            Ok(["one.b:1/1/one", "one.b:1/2/one", "two.b:1/1/two", "two.b:1/2/two"]
                .map(|u| format!("http://{u}"))
                .into())
        );
        for bad in ["ftp://a", "a.b/keys", "https://", "https:///x", "https://a b", "https://u@h/", "https://a/#x"] {
            assert!(urls(bad, "", "").is_err_and(|e| e.starts_with("expected a URL that begins with")), "{bad}");
        }
        assert!(urls("https://a/{{x", "", "").is_err_and(|e| e == "expected }} after {{"));
    }

    #[test]
    fn a_group_in_an_endpoint_lists_its_values() {
        let open = |group: &str| urls("https://a/{{x}}/keys", &format!("^https://id/{group}/?$"), "");
        for endless in ["(?P<x>.*)", "(?P<x>[a-z]+)", "(?P<x>a|b+)", "(?P<x>\\w)", "(?P<x>a{1,100})"] {
            assert!(open(endless).is_err_and(|e| e.contains("lists its values")), "{endless}");
        }
        for unsafe_value in ["(?P<x>a/b)", "(?P<x>a|\\.\\.)", "(?P<x>a|)", "(?P<x>a@b)", "(?P<x>%2e)", "(?P<x>a\\?)"] {
            assert!(open(unsafe_value).is_err_and(|e| e.contains("as value of x")), "{unsafe_value}");
        }
        assert!(open("(?P<y>a)").is_err_and(|e| e.contains("no group has that name")));
        let twice = urls("https://a/{{x}}", "(?P<x>a)", "(?P<x>b)");
        assert!(twice.is_err_and(|e| e.contains("more than one group has that name")));
        let many = urls("https://a/{{x}}/{{y}}", "(?P<x>[0-9])", "(?P<y>[a-h])");
        assert!(many.is_err_and(|e| e.contains("at most 64")));
        assert_eq!(open("(?P<x>[0-9])").expect("ten").len(), 10);
    }

    #[test]
    fn the_group_picks_the_url() {
        let token = Token {
            jwks_public_endpoint: "https://a/{{x}}".into(),
            issuer_regex: "(?P<x>red|blue)".into(),
            ..Token::default()
        };
        let source = token.read().expect("good").endpoint.expect("an endpoint");
        assert_eq!(source.url(|_| Some("red")).map(|url| &**url), Some("https://a/red"));
        assert_eq!(source.url(|_| Some("../b")), None, "not of the list");
        assert_eq!(source.url(|_| None), None);
    }

    #[test]
    fn both_sections_take_the_same_options() {
        let text = "[client.token]\nhmac_secret_key = 'a'\n[client.subscription_token]\nenabled = true\n\
                    hmac_secret_key = 'b'\nhmac_previous_secret_key_valid_until = 1735689600";
        let env = [("GANNET_CLIENT_SUBSCRIPTION_TOKEN_AUDIENCE".to_owned(), "x".to_owned())];
        let flags = [("client.subscription_token.issuer".to_owned(), "y".to_owned())];
        let (mut config, _) = load(Some(File { name: "a.toml", text }), &env, &flags).expect("good");
        let client = &mut config.client;
        let expected = Token {
            hmac_secret_key: "b".into(),
            hmac_previous_secret_key_valid_until: 1_735_689_600,
            audience: "x".into(),
            issuer: "y".into(),
            ..Token::default()
        };
        assert_eq!(client.token_of_subscriptions(), &expected);
        client.subscription_token.enabled = false;
        assert_eq!(client.token_of_subscriptions().hmac_secret_key, "a");
        let wrong = [("client.subscription_token.issuer_regex".to_owned(), "(".to_owned())];
        let wrong = load(None, &[], &wrong).expect_err("no pattern").remove(0).to_string();
        let start = "command line: --client.subscription_token.issuer_regex: expected a regular expression";
        assert!(wrong.starts_with(start), "{wrong}");
    }

    #[test]
    fn warnings() {
        let warned = |change: &dyn Fn(&mut Client)| {
            let mut config = Config::default();
            config.client.allowed_origins = vec!["*".into()];
            change(&mut config.client);
            let warnings = config.check().expect("good").into_iter();
            warnings.map(|warning| warning.option).collect::<Vec<_>>()
        };
        assert_eq!(warned(&|_| ()), ["client.token.hmac_secret_key"]);
        let skip = warned(&|client| client.insecure_skip_token_signature_verify = true);
        assert_eq!(skip, ["client.insecure_skip_token_signature_verify"]);
        let unused = warned(&|client| {
            client.token.jwks_public_endpoint = "http://a/".into();
            client.token.hmac_secret_key = "a".into();
            client.token.issuer_regex = "https://a".into();
            client.token.audience_regex = "^(a|b)$".into();
            client.subscription_token.token.issuer = "x".into();
        });
        let options = ["subscription_token.enabled", "token.jwks_public_endpoint", "token.hmac_secret_key"];
        let options = options.into_iter().chain(["token.issuer_regex"]);
        assert_eq!(unused, options.map(|key| format!("client.{key}")).collect::<Vec<_>>());
    }
}
