// A fleet of two kinds of nodes: whatever happens on one crosses to the other, in both directions.
package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge"
	sdk "github.com/centrifugal/centrifuge-go"
)

func inEach(t *testing.T, test func(t *testing.T, from topology)) {
	for name, make := range map[string]func(*testing.T) topology{"single": single, "sharded": sharded, "cluster": cluster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, make(t))
		})
	}
}

func pair(t *testing.T, from topology) (*gannet, *library) {
	t.Helper()
	here, there := startGannet(t, from), startLibrary(t, from)
	until(t, "they know each other", func() bool {
		info, err := there.Info()
		must(t, err)
		return len(info.Nodes) == 2 && len(here.api("info", object{})["nodes"].([]any)) == 2
	})
	return here, there
}

func TestPublicationsCross(t *testing.T) {
	inEach(t, func(t *testing.T, from topology) {
		here, there := pair(t, from)
		for at := range 5 {
			channel := fmt.Sprintf("plain%d", at)
			one, two := join(t, here.socket(), channel, sdk.SubscriptionConfig{}), join(t, there.socket(), channel, sdk.SubscriptionConfig{})
			one.subscribed()
			two.subscribed()
			here.api("publish", object{"channel": channel, "data": "gannet"})
			one.hears(`0 "gannet"`)
			two.hears(`0 "gannet"`)
			_, err := there.Publish(channel, []byte(`"library"`))
			must(t, err)
			one.hears(`0 "library"`)
			two.hears(`0 "library"`)
		}
	})
}

func TestHistoryIsOne(t *testing.T) {
	inEach(t, func(t *testing.T, from topology) {
		here, there := pair(t, from)
		const channel = "hi:a"
		one, two := join(t, here.socket(), channel, sdk.SubscriptionConfig{}), join(t, there.socket(), channel, sdk.SubscriptionConfig{})
		epoch := one.subscribed().StreamPosition.Epoch
		if other := two.subscribed().StreamPosition.Epoch; other != epoch {
			t.Fatalf("two epochs: %s and %s", epoch, other)
		}
		expected := []string{}
		for n := 1; n <= 20; n++ {
			if n%2 == 0 {
				result, err := there.Publish(channel, []byte(fmt.Sprint(n)), centrifuge.WithHistory(50, 10*time.Minute))
				must(t, err)
				if result.Offset != uint64(n) || result.Epoch != epoch {
					t.Fatalf("%+v, not %d of %s", result, n, epoch)
				}
			} else {
				result := here.api("publish", object{"channel": channel, "data": n})
				if result["offset"] != float64(n) || result["epoch"] != epoch {
					t.Fatalf("%v, not %d of %s", result, n, epoch)
				}
			}
			expected = append(expected, fmt.Sprintf("%d %d", n, n))
		}
		one.hears(expected...)
		two.hears(expected...)
		history, err := there.History(channel, centrifuge.WithLimit(-1))
		must(t, err)
		found := here.api("history", object{"channel": channel, "limit": -1})
		if len(history.Publications) != 20 || len(found["publications"].([]any)) != 20 {
			t.Fatalf("%d and %v", len(history.Publications), found)
		}
		// Clients move, and miss nothing.
		for _, socket := range []string{here.socket(), there.socket()} {
			reply := resume(t, socket, channel, 15, epoch)
			if !reply.Recovered || fmt.Sprint(reply.data()) != "[16 17 18 19 20]" {
				t.Fatalf("not recovered: %+v", reply)
			}
			if reply = resume(t, socket, channel, 15, "other"); reply.Recovered || reply.Epoch != epoch {
				t.Fatalf("recovered from another life: %+v", reply)
			}
		}
		must(t, there.RemoveHistory(channel))
		if found := here.api("history", object{"channel": channel, "limit": -1}); len(found["publications"].([]any)) != 0 || found["offset"] != 20.0 {
			t.Fatalf("%v", found)
		}
	})
}

// A client of the official SDK goes from a node of one kind to one of the other, and back, while publications go on.
func TestClientsMoveAndMissNothing(t *testing.T) {
	inEach(t, func(t *testing.T, from topology) {
		here, there := pair(t, from)
		between := startRelay(t, here.port)
		socket := fmt.Sprintf("ws://127.0.0.1:%d/connection/websocket", between.port)
		client := join(t, socket, "hi:moves", sdk.SubscriptionConfig{})
		client.subscribed()
		published := 0
		publish := func(count int) (expected []string) {
			for range count {
				published++
				if published%2 == 0 {
					_, err := there.Publish("hi:moves", fmt.Append(nil, published), centrifuge.WithHistory(50, 10*time.Minute))
					must(t, err)
				} else {
					here.api("publish", object{"channel": "hi:moves", "data": published})
				}
				expected = append(expected, fmt.Sprintf("%d %d", published, published))
			}
			return expected
		}
		for _, port := range []int{there.port, here.port, there.port, here.port} {
			client.hears(publish(5)...)
			// While it is away, and once it has come.
			between.turn(port)
			missed := publish(5)
			if event := client.subscribed(); !event.WasRecovering || !event.Recovered {
				t.Fatalf("not recovered: %+v", event)
			}
			client.hears(missed...)
		}
	})
}

func TestDeltasVersionsAndKeysCross(t *testing.T) {
	from := single(t)
	here, there := pair(t, from)
	const channel = "hi:d"
	delta := sdk.SubscriptionConfig{Delta: sdk.DeltaTypeFossil}
	one, two := join(t, here.socket(), channel, delta), join(t, there.socket(), channel, delta)
	one.subscribed()
	two.subscribed()
	long := func(n int) string { return fmt.Sprintf(`{"text":"a text that is long enough for a delta to be shorter","n":%d}`, n) }
	for n := 1; n <= 6; n++ {
		if n%2 == 0 {
			_, err := there.Publish(channel, []byte(long(n)), centrifuge.WithHistory(50, 10*time.Minute), centrifuge.WithDelta(true))
			must(t, err)
		} else {
			data := object{"text": "a text that is long enough for a delta to be shorter", "n": n}
			here.api("publish", object{"channel": channel, "data": data, "delta": true})
		}
	}
	for n := 1; n <= 6; n++ {
		// What the API brings has its keys in an order of its own.
		heard := []string{<-one.heard, <-two.heard}
		if heard[0] != heard[1] {
			t.Fatalf("%q and %q", heard[0], heard[1])
		}
		if n%2 == 0 && heard[0] != fmt.Sprintf("%d %s", n, long(n)) {
			t.Fatalf("%q", heard[0])
		}
	}
	first, err := there.Publish(channel, []byte("7"), centrifuge.WithHistory(50, 10*time.Minute), centrifuge.WithIdempotencyKey("K"))
	must(t, err)
	again := here.api("publish", object{"channel": channel, "data": 8, "idempotency_key": "K"})
	if again["offset"] != float64(first.Offset) {
		t.Fatalf("%v is not the first: %+v", again, first)
	}
	here.api("publish", object{"channel": channel, "data": 9, "version": 5})
	late, err := there.Publish(channel, []byte("10"), centrifuge.WithHistory(50, 10*time.Minute), centrifuge.WithVersion(5, ""))
	must(t, err)
	if late.Offset != first.Offset+1 {
		t.Fatalf("%+v is not suppressed", late)
	}
	one.hears("7 7", "8 9")
	two.hears("7 7", "8 9")
}

func TestPresenceCrosses(t *testing.T) {
	inEach(t, func(t *testing.T, from topology) {
		here, there := pair(t, from)
		const channel = "pr:a"
		one := join(t, here.socket(), channel, sdk.SubscriptionConfig{})
		one.subscribed()
		first := <-one.heard
		two := join(t, there.socket(), channel, sdk.SubscriptionConfig{})
		two.subscribed()
		second := <-one.heard
		if first == second || first[:5] != "join " || second[:5] != "join " {
			t.Fatalf("%q, %q", first, second)
		}
		stats, err := there.PresenceStats(channel)
		must(t, err)
		presence := here.api("presence", object{"channel": channel})["presence"].(object)
		if stats.NumClients != 2 || len(presence) != 2 || presence[second[5:]] == nil {
			t.Fatalf("%+v, %v", stats, presence)
		}
		two.client.Close()
		one.hears("leave " + second[5:])
		until(t, "it is gone", func() bool {
			return here.api("presence_stats", object{"channel": channel})["num_clients"] == 1.0
		})
		one.client.Close()
		until(t, "nobody is there", func() bool {
			stats, err := there.PresenceStats(channel)
			must(t, err)
			return stats.NumClients == 0
		})
	})
}

func TestControlCrosses(t *testing.T) {
	from := single(t)
	here, there := pair(t, from)
	one, two := join(t, here.socket(), "plain", sdk.SubscriptionConfig{}), join(t, there.socket(), "plain", sdk.SubscriptionConfig{})
	one.subscribed()
	two.subscribed()
	must(t, there.Unsubscribe("", "plain"))
	// An unsubscribe of the server's is followed by another subscription or none, as its code says.
	one.hears("unsubscribed 2000")
	two.hears("unsubscribed 2000")
	three := join(t, there.socket(), "plain", sdk.SubscriptionConfig{})
	three.subscribed()
	here.api("unsubscribe", object{"user": "", "channel": "plain"})
	three.hears("unsubscribed 2000")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	answers, err := there.Survey(ctx, "channels", nil, "")
	must(t, err)
	if len(answers) != 2 {
		t.Fatalf("%v", answers)
	}
	answers, err = there.Survey(ctx, "what nobody knows", nil, "")
	must(t, err)
	codes := map[uint32]bool{}
	for _, answer := range answers {
		codes[answer.Code] = true
	}
	if !codes[3] || time.Since(began) > 5*time.Second {
		t.Fatalf("an unknown question is answered with 3, at once: %v", answers)
	}
	four := join(t, here.socket(), "other", sdk.SubscriptionConfig{})
	four.subscribed()
	channels := here.api("channels", object{})["channels"].(object)
	if channels["other"] == nil {
		t.Fatalf("%v", channels)
	}
	must(t, there.Disconnect("", centrifuge.WithCustomDisconnect(centrifuge.Disconnect{Code: 4700, Reason: "away"})))
	four.hears("disconnected 4700")
	info, err := there.Info()
	must(t, err)
	names := map[string]bool{}
	for _, node := range info.Nodes {
		names[node.Name] = true
	}
	if !names["gannet"] || !names["library"] {
		t.Fatalf("%v", names)
	}
	five := join(t, there.socket(), "plain", sdk.SubscriptionConfig{})
	five.subscribed()
	here.api("disconnect", object{"user": "", "disconnect": object{"code": 4701, "reason": "away"}})
	five.hears("disconnected 4701")
}
