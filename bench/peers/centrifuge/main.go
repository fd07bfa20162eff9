// A node made of the library that Centrifugo is made of, over Redis: everyone may subscribe and publish, and channels of
// "hi" keep history. It does what Gannet is configured to do beside it, and no more.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	port := flag.Int("port", 0, "")
	_ = flag.String("mode", "", "not used: all peers are told of it")
	redis := flag.String("redis", "", "host:port")
	flag.Parse()
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone})
	must(err)
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: *redis})
	must(err)
	shards := []*centrifuge.RedisShard{shard}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Prefix: "centrifugo", Shards: shards})
	must(err)
	node.SetBroker(broker)
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: ""}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(event centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			kept := strings.HasPrefix(event.Channel, "hi:")
			reply(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{EnableRecovery: kept}}, nil)
		})
		client.OnPublish(func(event centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
			options := []centrifuge.PublishOption{}
			if strings.HasPrefix(event.Channel, "hi:") {
				options = append(options, centrifuge.WithHistory(100, 10*time.Minute))
			}
			result, err := node.Publish(event.Channel, event.Data, options...)
			reply(centrifuge.PublishReply{Result: &result}, err)
		})
	})
	must(node.Run())
	http.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		CheckOrigin: func(*http.Request) bool { return true },
	}))
	must(http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), nil))
}
