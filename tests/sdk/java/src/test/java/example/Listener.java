package example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;

import io.github.centrifugal.centrifuge.Client;
import io.github.centrifugal.centrifuge.ConnectedEvent;
import io.github.centrifugal.centrifuge.ConnectingEvent;
import io.github.centrifugal.centrifuge.DisconnectedEvent;
import io.github.centrifugal.centrifuge.EventListener;
import io.github.centrifugal.centrifuge.JoinEvent;
import io.github.centrifugal.centrifuge.LeaveEvent;
import io.github.centrifugal.centrifuge.Options;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.ReplyError;
import io.github.centrifugal.centrifuge.ResultCallback;
import io.github.centrifugal.centrifuge.ServerPublicationEvent;
import io.github.centrifugal.centrifuge.ServerSubscribedEvent;
import io.github.centrifugal.centrifuge.SubscribedEvent;
import io.github.centrifugal.centrifuge.Subscription;
import io.github.centrifugal.centrifuge.SubscriptionEventListener;
import io.github.centrifugal.centrifuge.SubscriptionOptions;
import io.github.centrifugal.centrifuge.UnsubscribedEvent;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** A client with what happens to it, in order. */
final class Listener extends EventListener implements AutoCloseable {
    final Client client;
    final BlockingQueue<ConnectedEvent> connected = new LinkedBlockingQueue<>();
    final BlockingQueue<ConnectingEvent> connecting = new LinkedBlockingQueue<>();
    final BlockingQueue<DisconnectedEvent> disconnected = new LinkedBlockingQueue<>();
    final BlockingQueue<ServerSubscribedEvent> subscribed = new LinkedBlockingQueue<>();
    final BlockingQueue<ServerPublicationEvent> publications = new LinkedBlockingQueue<>();

    Listener(Server server, Options options) {
        options.setMinReconnectDelay(20);
        options.setMaxReconnectDelay(200);
        client = new Client(server.clients(), options, this);
        client.connect();
    }

    /** A client of this user, connected; its id. */
    static Listener as(Server server, String user) throws Exception {
        Options options = new Options();
        options.setToken(Server.token("{\"sub\":\"" + user + "\"}"));
        Listener listener = new Listener(server, options);
        listener.id = next(listener.connected).getClient();
        // The first time it was not away.
        next(listener.connecting);
        return listener;
    }

    String id;

    static <T> T next(BlockingQueue<T> queue) throws InterruptedException {
        T one = queue.poll(Server.PATIENCE_SECONDS, TimeUnit.SECONDS);
        assertNotNull(one, "nothing came");
        return one;
    }

    static String text(byte[] data) {
        return new String(data, StandardCharsets.UTF_8);
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** The result of a call with a callback. */
    static <T> T result(Consumer<ResultCallback<T>> call) throws Exception {
        CompletableFuture<T> future = new CompletableFuture<>();
        call.accept((error, result) -> {
            if (error != null) {
                future.completeExceptionally(error);
            } else {
                future.complete(result);
            }
        });
        return future.get(Server.PATIENCE_SECONDS, TimeUnit.SECONDS);
    }

    /** The code with which a call is refused. */
    static <T> int refused(Consumer<ResultCallback<T>> call) throws Exception {
        CompletableFuture<Throwable> future = new CompletableFuture<>();
        call.accept((error, result) -> future.complete(error));
        Throwable error = future.get(Server.PATIENCE_SECONDS, TimeUnit.SECONDS);
        return ((ReplyError) error).getCode();
    }

    /** A subscription with what happens to it. */
    static final class Sub extends SubscriptionEventListener {
        final Subscription subscription;
        final BlockingQueue<SubscribedEvent> began = new LinkedBlockingQueue<>();
        final BlockingQueue<UnsubscribedEvent> ended = new LinkedBlockingQueue<>();
        final BlockingQueue<PublicationEvent> publications = new LinkedBlockingQueue<>();
        final BlockingQueue<String> comings = new LinkedBlockingQueue<>();

        Sub(Client client, String channel, SubscriptionOptions options) throws Exception {
            options.setMinResubscribeDelay(20);
            options.setMaxResubscribeDelay(200);
            subscription = client.newSubscription(channel, options, this);
            subscription.subscribe();
        }

        /** Publications with this data come, in this order and with nothing between. */
        void hears(String... all) throws Exception {
            for (String expected : all) {
                assertEquals(expected, text(next(publications).getData()));
            }
        }

        @Override
        public void onSubscribed(Subscription it, SubscribedEvent event) {
            began.add(event);
        }

        @Override
        public void onUnsubscribed(Subscription it, UnsubscribedEvent event) {
            ended.add(event);
        }

        @Override
        public void onPublication(Subscription it, PublicationEvent event) {
            publications.add(event);
        }

        @Override
        public void onJoin(Subscription it, JoinEvent event) {
            comings.add("+" + event.getInfo().getUser());
        }

        @Override
        public void onLeave(Subscription it, LeaveEvent event) {
            comings.add("-" + event.getInfo().getUser());
        }
    }

    Sub subscribe(String channel) throws Exception {
        return new Sub(client, channel, new SubscriptionOptions());
    }

    @Override
    public void onConnected(Client it, ConnectedEvent event) {
        connected.add(event);
    }

    @Override
    public void onConnecting(Client it, ConnectingEvent event) {
        connecting.add(event);
    }

    @Override
    public void onDisconnected(Client it, DisconnectedEvent event) {
        disconnected.add(event);
    }

    @Override
    public void onSubscribed(Client it, ServerSubscribedEvent event) {
        subscribed.add(event);
    }

    @Override
    public void onPublication(Client it, ServerPublicationEvent event) {
        publications.add(event);
    }

    @Override
    public void close() throws Exception {
        client.close(1000);
    }
}
