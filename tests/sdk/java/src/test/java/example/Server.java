package example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.File;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.TimeUnit;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** The server under test on a free loopback port, its API, and tokens that it takes. */
final class Server implements AutoCloseable {
    private static final String KEY = "test-api-key";
    private static final String SECRET = "test-secret-of-at-least-thirty-two-bytes";
    /** Nothing that is waited for takes longer. */
    static final int PATIENCE_SECONDS = 10;

    /** A folder with cert.pem and key.pem: then all that is said is said over TLS, and the JVM is told whom to trust. */
    private static final String TLS = System.getenv().getOrDefault("TESTS_TLS", "");

    private final HttpClient http = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();
    private final Process process;
    private final int port;

    Server(String namespaces, String... options) throws Exception {
        Path root = Path.of("../../..").toAbsolutePath().normalize();
        String binary = System.getenv("GANNET");
        try (ServerSocket probe = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            port = probe.getLocalPort();
        }
        List<String> words = new ArrayList<>(List.of(
                binary == null || binary.isEmpty() ? root.resolve("target/release/gannet").toString() : binary,
                "--http_server.address", "127.0.0.1", "--http_server.port", String.valueOf(port), "--reactors", "2",
                "--health.enabled", "--http_api.key", KEY, "--client.token.hmac_secret_key", SECRET,
                "--channel.namespaces", namespaces, "--shutdown.delay", "0s", "--shutdown.spread", "100ms"));
        words.addAll(List.of(options));
        if (!TLS.isEmpty()) {
            words.addAll(List.of("--http_server.tls.enabled", "--http_server.tls.cert_pem=" + TLS + "/cert.pem",
                    "--http_server.tls.key_pem=" + TLS + "/key.pem"));
        }
        Path logs = Files.createDirectories(root.resolve("tests/.cache/logs/servers"));
        File log = logs.resolve(port + ".log").toFile();
        process = new ProcessBuilder(words).redirectErrorStream(true).redirectOutput(log).start();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
        while (!isHealthy()) {
            assertTrue(process.isAlive(), "the server ended at start, see " + log);
            assertTrue(System.nanoTime() < deadline, "the server is not healthy, see " + log);
            process.waitFor(10, TimeUnit.MILLISECONDS);
        }
    }

    private boolean isHealthy() throws InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url("/health"))).timeout(Duration.ofSeconds(1)).build();
        try {
            return http.send(request, BodyHandlers.ofString()).statusCode() == 200;
        } catch (java.io.IOException notYet) {
            return false;
        }
    }

    private String url(String path) {
        return scheme("http") + "://127.0.0.1:" + port + path;
    }

    String clients() {
        return scheme("ws") + "://127.0.0.1:" + port + "/connection/websocket";
    }

    private static String scheme(String name) {
        return TLS.isEmpty() ? name : name + "s";
    }

    /** A call of the server API that must succeed; the answer as text. */
    String api(String method, String body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url("/api/" + method)))
                .timeout(Duration.ofSeconds(PATIENCE_SECONDS))
                .header("X-API-Key", KEY)
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
        var answer = http.send(request, BodyHandlers.ofString());
        assertEquals(200, answer.statusCode(), answer.body());
        assertTrue(answer.body().startsWith("{\"result\":"), answer.body());
        return answer.body();
    }

    void publish(String channel, String data) throws Exception {
        api("publish", "{\"channel\":\"" + channel + "\",\"data\":" + data + "}");
    }

    /** A JWT signed with HS256. */
    static String token(String claims) throws Exception {
        Base64.Encoder base64 = Base64.getUrlEncoder().withoutPadding();
        String head = base64.encodeToString("{\"alg\":\"HS256\",\"typ\":\"JWT\"}".getBytes(StandardCharsets.UTF_8));
        String signed = head + "." + base64.encodeToString(claims.getBytes(StandardCharsets.UTF_8));
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(SECRET.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
        return signed + "." + base64.encodeToString(mac.doFinal(signed.getBytes(StandardCharsets.UTF_8)));
    }

    @Override
    public void close() throws Exception {
        process.destroy();
        boolean ended = process.waitFor(PATIENCE_SECONDS, TimeUnit.SECONDS);
        process.destroyForcibly();
        assertTrue(ended, "the server does not end");
        assertEquals(0, process.exitValue());
    }
}
