// Proves with the official Go SDK, in both encodings, what an application in Go does: it connects, subscribes, publishes,
// asks for history and presence, recovers what it missed, and calls the backend.
package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

var channels = map[string]object{
	"open": {"allow_subscribe_for_client": true, "allow_publish_for_subscriber": true},
	"room": {
		"allow_subscribe_for_client": true, "presence": true, "allow_presence_for_subscriber": true,
		"join_leave": true, "force_push_join_leave": true,
	},
	"log": {
		"allow_subscribe_for_client": true, "history_size": 20, "history_ttl": "60s",
		"allow_history_for_subscriber": true, "force_recovery": true,
	},
	"delta": {
		"allow_subscribe_for_client": true, "history_size": 5, "history_ttl": "60s", "force_recovery": true,
		"allowed_delta_types": []string{"fossil"}, "delta_publish": true,
	},
	"tagged": {"allow_subscribe_for_client": true, "allow_tags_filter": true},
	"mine":   {"history_size": 5, "history_ttl": "60s", "force_recovery": true},
	"closed": {},
}

func each(t *testing.T, test func(t *testing.T, encoding string)) {
	for _, encoding := range []string{"json", "protobuf"} {
		t.Run(encoding, func(t *testing.T) { test(t, encoding) })
	}
}

func code(t *testing.T, err error) uint32 {
	t.Helper()
	var refused *centrifuge.Error
	if !errors.As(err, &refused) {
		t.Fatalf("not refused: %v", err)
	}
	return refused.Code
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels)
		_, id := server.connect(encoding, "ann")
		if len(id) != 36 {
			t.Fatalf("no id: %q", id)
		}
		bad := server.client(encoding, centrifuge.Config{Token: token(object{"sub": "ann"}) + "x"})
		ended := make(chan centrifuge.DisconnectedEvent, 10)
		bad.OnDisconnected(func(event centrifuge.DisconnectedEvent) { ended <- event })
		must(t, bad.Connect())
		equal(t, next(t, ended), centrifuge.DisconnectedEvent{Code: 3500, Reason: "invalid token"})

		// An expired one is asked for again.
		asked := make(chan bool, 10)
		old := server.client(encoding, centrifuge.Config{
			Token: token(object{"sub": "ann", "exp": time.Now().Unix() - 10}),
			GetToken: func(centrifuge.ConnectionTokenEvent) (string, error) {
				asked <- true
				return token(object{"sub": "ann", "exp": time.Now().Unix() + 600}), nil
			},
		})
		connected := make(chan centrifuge.ConnectedEvent, 10)
		old.OnConnected(func(event centrifuge.ConnectedEvent) { connected <- event })
		must(t, old.Connect())
		next(t, asked)
		next(t, connected)
	})
}

func TestPublishing(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels)
		ann, id := server.connect(encoding, "ann")
		bob, _ := server.connect("json", "bob")
		hers, his := subscribe(t, ann, "open:a", centrifuge.SubscriptionConfig{}), subscribe(t, bob, "open:a", centrifuge.SubscriptionConfig{})
		next(t, hers.began)
		next(t, his.began)
		for n := range 50 {
			_, err := hers.Publish(context.Background(), []byte(fmt.Sprint(n)))
			must(t, err)
		}
		server.api("publish", object{"channel": "open:a", "data": "end", "tags": object{"from": "api"}})
		for _, sub := range []*subscription{hers, his} {
			for n := range 50 {
				one := next(t, sub.publications)
				equal(t, []string{string(one.Data), one.Info.User, one.Info.Client}, []string{fmt.Sprint(n), "ann", id})
			}
			end := next(t, sub.publications)
			equal(t, []string{string(end.Data), end.Tags["from"]}, []string{`"end"`, "api"})
		}
		_, err := ann.Publish(context.Background(), "closed:a", []byte("1"))
		equal(t, code(t, err), 103)
		must(t, hers.Unsubscribe())
		next(t, hers.ended)
		refused := subscribe(t, ann, "closed:a", centrifuge.SubscriptionConfig{})
		equal(t, next(t, refused.ended).Code, 103)
		server.api("unsubscribe", object{"user": "bob", "channel": "open:a"})
		equal(t, next(t, his.ended).Code, 2000)
	})
}

func TestHistory(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels)
		ann, _ := server.connect(encoding, "ann")
		sub := subscribe(t, ann, "log:a", centrifuge.SubscriptionConfig{})
		began := next(t, sub.began)
		equal(t, []bool{began.Recoverable, began.Positioned, began.WasRecovering}, []bool{true, true, false})
		for n := 1; n <= 5; n++ {
			server.api("publish", object{"channel": "log:a", "data": n})
		}
		since := &centrifuge.StreamPosition{Offset: 2, Epoch: began.StreamPosition.Epoch}
		for _, one := range []struct {
			options []centrifuge.HistoryOption
			offsets []uint64
		}{
			{nil, nil},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(-1)}, []uint64{1, 2, 3, 4, 5}},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(2)}, []uint64{1, 2}},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(2), centrifuge.WithHistoryReverse(true)}, []uint64{5, 4}},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(9), centrifuge.WithHistorySince(since)}, []uint64{3, 4, 5}},
		} {
			result, err := sub.History(context.Background(), one.options...)
			must(t, err)
			var offsets []uint64
			for _, publication := range result.Publications {
				offsets = append(offsets, publication.Offset)
				equal(t, string(publication.Data), fmt.Sprint(publication.Offset))
			}
			equal(t, offsets, one.offsets)
			equal(t, []any{result.Offset, result.Epoch}, []any{5, since.Epoch})
		}
		since.Epoch = "of another life"
		_, err := sub.History(context.Background(), centrifuge.WithHistorySince(since))
		equal(t, code(t, err), 112)
		_, err = ann.History(context.Background(), "open:a")
		equal(t, code(t, err), 108)
	})
}

func TestPresence(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels)
		ann, id := server.connect(encoding, "ann")
		bob, his := server.connect("json", "bob")
		room := subscribe(t, ann, "room:a", centrifuge.SubscriptionConfig{})
		equal(t, next(t, room.comings), "+ann")
		other := subscribe(t, bob, "room:a", centrifuge.SubscriptionConfig{})
		equal(t, next(t, room.comings), "+bob")
		present, err := room.Presence(context.Background())
		must(t, err)
		equal(t, []any{len(present.Clients), present.Clients[id].User, present.Clients[his].User}, []any{2, "ann", "bob"})
		stats, err := room.PresenceStats(context.Background())
		must(t, err)
		equal(t, []int{stats.NumClients, stats.NumUsers}, []int{2, 2})
		must(t, other.Unsubscribe())
		equal(t, next(t, room.comings), "-bob")
		stats, err = room.PresenceStats(context.Background())
		must(t, err)
		equal(t, []int{stats.NumClients, stats.NumUsers}, []int{1, 1})
	})
}

func TestRecovery(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels)
		ann, _ := server.connect(encoding, "ann")
		away, back := make(chan centrifuge.ConnectingEvent, 10), make(chan bool, 10)
		ann.OnConnecting(func(event centrifuge.ConnectingEvent) {
			away <- event
			// It does not come back before everything was published.
			<-back
		})
		sub := subscribe(t, ann, "log:b", centrifuge.SubscriptionConfig{})
		next(t, sub.began)
		publish := func(from, to int) (all []string) {
			for n := from; n <= to; n++ {
				server.api("publish", object{"channel": "log:b", "data": n})
				all = append(all, fmt.Sprint(n))
			}
			return all
		}
		sub.hears(t, publish(1, 3)...)
		for round, why := range []uint32{4000, 3000} {
			server.api("disconnect", object{"user": "ann", "disconnect": object{"code": why, "reason": "come again"}})
			// The end with 3000 is not told: its transport is closed.
			equal(t, next(t, away).Code, []uint32{4000, 1}[round])
			missed := publish(4+5*round, 8+5*round)
			back <- true
			began := next(t, sub.began)
			equal(t, []bool{began.WasRecovering, began.Recovered}, []bool{true, true})
			sub.hears(t, missed...)
		}
		server.api("disconnect", object{"user": "ann", "disconnect": object{"code": 4000, "reason": "come again"}})
		next(t, away)
		publish(14, 40)
		back <- true
		began := next(t, sub.began)
		equal(t, []bool{began.WasRecovering, began.Recovered}, []bool{true, false})
		equal(t, began.StreamPosition.Offset, 40)
		sub.hears(t, publish(41, 42)...)

		ended := make(chan centrifuge.DisconnectedEvent, 10)
		ann.OnDisconnected(func(event centrifuge.DisconnectedEvent) { ended <- event })
		server.api("disconnect", object{"user": "ann"})
		equal(t, next(t, ended), centrifuge.DisconnectedEvent{Code: 3503, Reason: "force disconnect"})
	})
}

func TestServerSideSubscriptions(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels)
		claims := object{"sub": "ann", "subs": object{"mine:a": object{"data": object{"hello": "you"}}}}
		ann := server.client(encoding, centrifuge.Config{Token: token(claims)})
		began := make(chan centrifuge.ServerSubscribedEvent, 10)
		heard := make(chan centrifuge.ServerPublicationEvent, 10)
		left := make(chan centrifuge.ServerUnsubscribedEvent, 10)
		ann.OnSubscribed(func(event centrifuge.ServerSubscribedEvent) { began <- event })
		ann.OnPublication(func(event centrifuge.ServerPublicationEvent) { heard <- event })
		ann.OnUnsubscribed(func(event centrifuge.ServerUnsubscribedEvent) { left <- event })
		must(t, ann.Connect())
		first := next(t, began)
		equal(t, []any{first.Channel, first.Recoverable, string(first.Data)}, []any{"mine:a", true, `{"hello":"you"}`})
		server.api("publish", object{"channel": "mine:a", "data": 1})
		equal(t, string(next(t, heard).Data), "1")
		server.api("subscribe", object{"user": "ann", "channel": "mine:b", "data": 2})
		second := next(t, began)
		equal(t, []any{second.Channel, string(second.Data)}, []any{"mine:b", "2"})
		// Again, which this SDK tells nobody; nothing is missed.
		server.api("subscribe", object{"user": "ann", "channel": "mine:b", "data": 3})
		server.api("publish", object{"channel": "mine:b", "data": 4})
		one := next(t, heard)
		equal(t, []any{one.Channel, string(one.Data), one.Offset}, []any{"mine:b", "4", 1})
		server.api("unsubscribe", object{"user": "ann", "channel": "mine:b"})
		equal(t, next(t, left).Channel, "mine:b")
	})
}

func TestSubscriptionTokens(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels, "--client.expired_sub_close_delay", "1s")
		ann, _ := server.connect(encoding, "ann")
		asked := make(chan string, 100)
		sub := subscribe(t, ann, "closed:b", centrifuge.SubscriptionConfig{
			GetToken: func(event centrifuge.SubscriptionTokenEvent) (string, error) {
				asked <- event.Channel
				return token(object{"sub": "ann", "channel": event.Channel, "exp": time.Now().Unix() + 2}), nil
			},
		})
		next(t, sub.began)
		equal(t, next(t, asked), "closed:b")
		equal(t, next(t, asked), "closed:b")
		server.api("publish", object{"channel": "closed:b", "data": "refreshed"})
		sub.hears(t, `"refreshed"`)
		wrong := subscribe(t, ann, "closed:c", centrifuge.SubscriptionConfig{Token: "no token"})
		equal(t, next(t, wrong.ended).Code, 103)
	})
}

func TestDeltasAndFilters(t *testing.T) {
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels)
		ann, _ := server.connect(encoding, "ann")
		deltas := subscribe(t, ann, "delta:a", centrifuge.SubscriptionConfig{Delta: centrifuge.DeltaTypeFossil})
		filtered := subscribe(t, ann, "tagged:a", centrifuge.SubscriptionConfig{
			TagsFilter: centrifuge.FilterEq("lang", "de"),
		})
		next(t, deltas.began)
		next(t, filtered.began)
		for n := range 5 {
			data := object{"n": n, "text": "much that stays the same from one publication to the next"}
			server.api("publish", object{"channel": "delta:a", "data": data})
			equal(t, string(next(t, deltas.publications).Data), string(toJSON(t, data)))
		}
		for n, lang := range []string{"de", "en", "de"} {
			server.api("publish", object{"channel": "tagged:a", "data": n, "tags": object{"lang": lang}})
		}
		filtered.hears(t, "0", "2")
	})
}

func TestRPC(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		var asked struct {
			Method, User string
			Data         json.RawMessage
		}
		_ = json.NewDecoder(request.Body).Decode(&asked)
		said := object{"result": object{"data": object{"user": asked.User, "echo": asked.Data}}}
		if asked.Method == "fail" {
			said = object{"error": object{"code": 1000, "message": "not today"}}
		}
		_ = json.NewEncoder(answer).Encode(said)
	}))
	t.Cleanup(backend.Close)
	each(t, func(t *testing.T, encoding string) {
		server := start(t, channels, "--rpc.proxy.endpoint", backend.URL+"/rpc", "--rpc.without_namespace.proxy_enabled")
		ann, _ := server.connect(encoding, "ann")
		result, err := ann.RPC(context.Background(), "echo", []byte(`{"n":1}`))
		must(t, err)
		equal(t, string(result.Data), `{"echo":{"n":1},"user":"ann"}`)
		_, err = ann.RPC(context.Background(), "fail", []byte("{}"))
		equal(t, code(t, err), 1000)
		_, err = ann.RPC(context.Background(), "nowhere:method", []byte("{}"))
		equal(t, code(t, err), 104)
	})
}
