package example;

import static example.Listener.bytes;
import static example.Listener.next;
import static example.Listener.refused;
import static example.Listener.result;
import static example.Listener.text;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.sun.net.httpserver.HttpServer;
import io.github.centrifugal.centrifuge.ConnectionTokenEvent;
import io.github.centrifugal.centrifuge.ConnectionTokenGetter;
import io.github.centrifugal.centrifuge.HistoryOptions;
import io.github.centrifugal.centrifuge.HistoryResult;
import io.github.centrifugal.centrifuge.Options;
import io.github.centrifugal.centrifuge.PresenceResult;
import io.github.centrifugal.centrifuge.PresenceStatsResult;
import io.github.centrifugal.centrifuge.Publication;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.PublishResult;
import io.github.centrifugal.centrifuge.RPCResult;
import io.github.centrifugal.centrifuge.StreamPosition;
import io.github.centrifugal.centrifuge.SubscriptionOptions;
import io.github.centrifugal.centrifuge.SubscriptionTokenEvent;
import io.github.centrifugal.centrifuge.SubscriptionTokenGetter;
import io.github.centrifugal.centrifuge.TokenCallback;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Proves with the official Java SDK, which speaks Protobuf, what an application in Java does. */
@Timeout(60)
class SdkTest {
    private static final String CHANNELS = """
            [{"name": "open", "allow_subscribe_for_client": true, "allow_publish_for_subscriber": true},
             {"name": "room", "allow_subscribe_for_client": true, "presence": true, "join_leave": true,
              "allow_presence_for_subscriber": true, "force_push_join_leave": true},
             {"name": "log", "allow_subscribe_for_client": true, "history_size": 20, "history_ttl": "60s",
              "allow_history_for_subscriber": true, "force_recovery": true},
             {"name": "closed"}]""";

    private static long inSeconds(int seconds) {
        return System.currentTimeMillis() / 1000 + seconds;
    }

    private static String disconnect(int code) {
        return "{\"user\":\"ann\",\"disconnect\":{\"code\":" + code + ",\"reason\":\"come again\"}}";
    }

    @Test
    void tokens() throws Exception {
        try (Server server = new Server(CHANNELS); Listener ann = Listener.as(server, "ann")) {
            assertEquals(36, ann.id.length());
            Options bad = new Options();
            bad.setToken(Server.token("{\"sub\":\"ann\"}") + "x");
            try (Listener refused = new Listener(server, bad)) {
                assertEquals(3500, next(refused.disconnected).getCode());
            }
            // An expired one is asked for again.
            BlockingQueue<Boolean> asked = new LinkedBlockingQueue<>();
            Options old = new Options();
            old.setToken(Server.token("{\"sub\":\"ann\",\"exp\":" + inSeconds(-10) + "}"));
            String good = Server.token("{\"sub\":\"ann\",\"exp\":" + inSeconds(600) + "}");
            old.setTokenGetter(new ConnectionTokenGetter() {
                @Override
                public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
                    asked.add(true);
                    callback.Done(null, good);
                }
            });
            try (Listener again = new Listener(server, old)) {
                next(asked);
                next(again.connected);
            }
        }
    }

    @Test
    void publishing() throws Exception {
        try (Server server = new Server(CHANNELS);
                Listener ann = Listener.as(server, "ann");
                Listener bob = Listener.as(server, "bob")) {
            Listener.Sub hers = ann.subscribe("open:a");
            Listener.Sub his = bob.subscribe("open:a");
            next(hers.began);
            next(his.began);
            for (int n = 0; n < 50; n += 1) {
                byte[] data = bytes(String.valueOf(n));
                Listener.<PublishResult>result(done -> hers.subscription.publish(data, done));
            }
            server.api("publish", "{\"channel\":\"open:a\",\"data\":\"end\",\"tags\":{\"from\":\"api\"}}");
            for (Listener.Sub sub : List.of(hers, his)) {
                for (int n = 0; n < 50; n += 1) {
                    PublicationEvent one = next(sub.publications);
                    assertEquals(String.valueOf(n), text(one.getData()));
                    assertEquals(ann.id, one.getInfo().getClient());
                }
                PublicationEvent end = next(sub.publications);
                assertEquals("\"end\"", text(end.getData()));
                assertEquals("api", end.getTags().get("from"));
            }
            assertEquals(103, Listener.<PublishResult>refused(done -> ann.client.publish("closed:a", bytes("1"), done)));
            assertEquals(103, next(ann.subscribe("closed:a").ended).getCode());
            server.api("unsubscribe", "{\"user\":\"bob\",\"channel\":\"open:a\"}");
            assertEquals(2000, next(his.ended).getCode());
        }
    }

    private static List<Long> offsets(Listener.Sub sub, HistoryOptions options) throws Exception {
        HistoryResult found = result(done -> sub.subscription.history(options, done));
        assertEquals(5, found.getOffset());
        for (Publication publication : found.getPublications()) {
            assertEquals(String.valueOf(publication.getOffset()), text(publication.getData()));
        }
        return found.getPublications().stream().map(Publication::getOffset).toList();
    }

    private static HistoryOptions.Builder limit(int limit) {
        return new HistoryOptions.Builder().withLimit(limit);
    }

    @Test
    void history() throws Exception {
        try (Server server = new Server(CHANNELS); Listener ann = Listener.as(server, "ann")) {
            Listener.Sub sub = ann.subscribe("log:a");
            assertEquals(true, next(sub.began).getRecoverable());
            for (int n = 1; n <= 5; n += 1) {
                server.publish("log:a", String.valueOf(n));
            }
            HistoryResult none = result(done -> sub.subscription.history(limit(0).build(), done));
            StreamPosition since = new StreamPosition(2, none.getEpoch());
            assertEquals(List.of(1L, 2L, 3L, 4L, 5L), offsets(sub, limit(-1).build()));
            assertEquals(List.of(1L, 2L), offsets(sub, limit(2).build()));
            assertEquals(List.of(5L, 4L), offsets(sub, limit(2).withReverse(true).build()));
            assertEquals(List.of(3L, 4L, 5L), offsets(sub, limit(9).withSince(since).build()));
            StreamPosition other = new StreamPosition(2, "of another life");
            HistoryOptions lost = limit(9).withSince(other).build();
            assertEquals(112, Listener.<HistoryResult>refused(done -> sub.subscription.history(lost, done)));
            assertEquals(108, Listener.<HistoryResult>refused(
                    done -> ann.client.history("open:a", limit(1).build(), done)));
        }
    }

    @Test
    void presence() throws Exception {
        try (Server server = new Server(CHANNELS);
                Listener ann = Listener.as(server, "ann");
                Listener bob = Listener.as(server, "bob")) {
            Listener.Sub room = ann.subscribe("room:a");
            assertEquals("+ann", next(room.comings));
            Listener.Sub his = bob.subscribe("room:a");
            assertEquals("+bob", next(room.comings));
            PresenceResult present = result(done -> room.subscription.presence(done));
            assertEquals(2, present.getClients().size());
            assertEquals("bob", present.getClients().get(bob.id).getUser());
            his.subscription.unsubscribe();
            assertEquals("-bob", next(room.comings));
            PresenceStatsResult stats = result(done -> room.subscription.presenceStats(done));
            assertEquals(List.of(1, 1), List.of(stats.getNumClients(), stats.getNumUsers()));
        }
    }

    private static String[] tell(Server server, int from, int to) throws Exception {
        for (int n = from; n <= to; n += 1) {
            server.publish("log:b", String.valueOf(n));
        }
        return IntStream.rangeClosed(from, to).mapToObj(String::valueOf).toArray(String[]::new);
    }

    @Test
    void recovery() throws Exception {
        try (Server server = new Server(CHANNELS); Listener ann = Listener.as(server, "ann")) {
            Listener.Sub sub = ann.subscribe("log:b");
            next(sub.began);
            sub.hears(tell(server, 1, 3));
            for (int round = 0; round < 3; round += 1) {
                server.api("disconnect", disconnect(4000));
                String[] missed = tell(server, 4 + 5 * round, 8 + 5 * round);
                assertEquals(4000, next(ann.connecting).getCode());
                var began = next(sub.began);
                assertEquals(List.of(true, true), List.of(began.wasRecovering(), began.getRecovered()));
                sub.hears(missed);
            }
            server.api("disconnect", "{\"user\":\"ann\"}");
            assertEquals(3503, next(ann.disconnected).getCode());
            tell(server, 19, 60);
            ann.client.connect();
            var began = next(sub.began);
            assertEquals(List.of(true, false), List.of(began.wasRecovering(), began.getRecovered()));
            sub.hears(tell(server, 61, 62));
        }
    }

    @Test
    void serverSideSubscriptions() throws Exception {
        Options options = new Options();
        options.setToken(Server.token("{\"sub\":\"ann\",\"subs\":{\"closed:a\":{\"data\":{\"hello\":\"you\"}}}}"));
        try (Server server = new Server(CHANNELS); Listener ann = new Listener(server, options)) {
            var first = next(ann.subscribed);
            assertEquals("closed:a {\"hello\":\"you\"}", first.getChannel() + " " + text(first.getData()));
            server.publish("closed:a", "1");
            assertEquals("1", text(next(ann.publications).getData()));
            server.api("subscribe", "{\"user\":\"ann\",\"channel\":\"closed:b\",\"data\":2}");
            assertEquals("closed:b", next(ann.subscribed).getChannel());
            server.publish("closed:b", "3");
            assertEquals("3", text(next(ann.publications).getData()));
        }
    }

    @Test
    void subscriptionTokens() throws Exception {
        try (Server server = new Server(CHANNELS, "--client.expired_sub_close_delay", "1s");
                Listener ann = Listener.as(server, "ann")) {
            BlockingQueue<String> asked = new LinkedBlockingQueue<>();
            SubscriptionOptions options = new SubscriptionOptions();
            options.setTokenGetter(new SubscriptionTokenGetter() {
                @Override
                public void getSubscriptionToken(SubscriptionTokenEvent event, TokenCallback callback) {
                    asked.add(event.getChannel());
                    try {
                        String of = "{\"sub\":\"ann\",\"channel\":\"" + event.getChannel() + "\",\"exp\":";
                        callback.Done(null, Server.token(of + inSeconds(2) + "}"));
                    } catch (Exception error) {
                        callback.Done(error, null);
                    }
                }
            });
            Listener.Sub sub = new Listener.Sub(ann.client, "closed:c", options);
            next(sub.began);
            assertEquals("closed:c", next(asked));
            assertEquals("closed:c", next(asked));
            server.publish("closed:c", "4");
            sub.hears("4");
        }
    }

    @Test
    void rpc() throws Exception {
        HttpServer backend = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        backend.createContext("/rpc", exchange -> {
            String asked = text(exchange.getRequestBody().readAllBytes());
            String said = asked.contains("\"method\":\"fail\"")
                    ? "{\"error\":{\"code\":1000,\"message\":\"not today\"}}"
                    : "{\"result\":{\"data\":{\"n\":2}}}";
            exchange.sendResponseHeaders(200, said.length());
            exchange.getResponseBody().write(bytes(said));
            exchange.close();
        });
        backend.start();
        String url = "http://127.0.0.1:" + backend.getAddress().getPort() + "/rpc";
        try (Server server = new Server(CHANNELS, "--rpc.proxy.endpoint", url, "--rpc.without_namespace.proxy_enabled");
                Listener ann = Listener.as(server, "ann")) {
            RPCResult said = result(done -> ann.client.rpc("echo", bytes("{\"n\":1}"), done));
            assertEquals("{\"n\":2}", text(said.getData()));
            assertEquals(1000, Listener.<RPCResult>refused(done -> ann.client.rpc("fail", bytes("{}"), done)));
            assertEquals(104, Listener.<RPCResult>refused(done -> ann.client.rpc("no:such", bytes("{}"), done)));
        } finally {
            backend.stop(0);
        }
    }
}
