// Starts what a fleet of two kinds of nodes is made of: a Redis, Gannet, and a node made of the library that Centrifugo
// is made of, in this process.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge"
	sdk "github.com/centrifugal/centrifuge-go"
	"github.com/gorilla/websocket"
)

const (
	apiKey = "test-api-key"
	// Nothing that is waited for takes longer.
	patience = 30 * time.Second
)

type object = map[string]any

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until asks again and again.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// freePort is below what the bus of a Redis Cluster needs above it.
func freePort(t *testing.T) int {
	for {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		port := listener.Addr().(*net.TCPAddr).Port
		_ = listener.Close()
		if port <= 55535 {
			return port
		}
	}
}

// run starts a process that is ended with the test.
func run(t *testing.T, program string, arguments ...string) *exec.Cmd {
	t.Helper()
	process := exec.Command(program, arguments...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	process.Stdout, process.Stderr = log, log
	must(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s said:\n%s", program, text)
		}
		_ = log.Close()
	})
	return process
}

func redisServer(t *testing.T, more ...string) int {
	t.Helper()
	port := freePort(t)
	options := []string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}
	run(t, "redis-server", append(options, more...)...)
	until(t, "the Redis answers", func() bool { return strings.TrimSpace(cli(port, "PING")) == "PONG" })
	return port
}

func cli(port int, words ...string) string {
	output, _ := exec.Command("redis-cli", append([]string{"-p", strconv.Itoa(port)}, words...)...).CombinedOutput()
	return string(output)
}

// topology is how both nodes come to their Redis.
type topology struct {
	name    string
	gannet  []string
	library []centrifuge.RedisShardConfig
}

func single(t *testing.T) topology {
	address := fmt.Sprintf("127.0.0.1:%d", redisServer(t))
	return topology{
		name:    "single",
		gannet:  []string{"--engine.redis.address", "redis://" + address},
		library: []centrifuge.RedisShardConfig{{Address: address}},
	}
}

func sharded(t *testing.T) topology {
	one, two := fmt.Sprintf("127.0.0.1:%d", redisServer(t)), fmt.Sprintf("127.0.0.1:%d", redisServer(t))
	return topology{
		name:    "sharded",
		gannet:  []string{"--engine.redis.address", one + " " + two},
		library: []centrifuge.RedisShardConfig{{Address: one}, {Address: two}},
	}
}

func cluster(t *testing.T) topology {
	addresses, port := []string{}, 0
	for range 3 {
		port = redisServer(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
		addresses = append(addresses, fmt.Sprintf("127.0.0.1:%d", port))
	}
	create := append([]string{"--cluster", "create"}, addresses...)
	create = append(create, "--cluster-replicas", "0", "--cluster-yes")
	if output, err := exec.Command("redis-cli", create...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	until(t, "the cluster is whole", func() bool { return strings.Contains(cli(port, "CLUSTER", "INFO"), "cluster_state:ok") })
	return topology{
		name:    "cluster",
		gannet:  []string{"--engine.redis.cluster_address", strings.Join(addresses, ",")},
		library: []centrifuge.RedisShardConfig{{ClusterAddresses: addresses}},
	}
}

type gannet struct {
	t       *testing.T
	port    int
	process *exec.Cmd
}

func startGannet(t *testing.T, from topology, more ...string) *gannet {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, err)
	binary := os.Getenv("GANNET")
	if binary == "" {
		binary = filepath.Join(root, "target/release/gannet")
	}
	namespaces := `[{"name":"hi","history_size":50,"history_ttl":"10m","force_recovery":true,
		"allowed_delta_types":["fossil"],"allow_history_for_client":true},
		{"name":"pr","presence":true,"join_leave":true,"force_push_join_leave":true},
		{"name":"fa","history_size":100000,"history_ttl":"10m","force_recovery":true,"presence":true}]`
	node := &gannet{t: t, port: freePort(t)}
	options := append([]string{
		"--http_server.address", "127.0.0.1", "--http_server.port", strconv.Itoa(node.port), "--reactors", "2",
		"--health.enabled", "--http_api.key", apiKey, "--client.insecure", "--channel.namespaces", namespaces,
		"--engine.type", "redis", "--node.name", "gannet", "--http_stream.enabled", "--sse.enabled",
	}, append(from.gannet, more...)...)
	node.process = run(t, binary, options...)
	until(t, "Gannet is ready", func() bool {
		response, err := http.Get(node.url("/health/ready"))
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return node
}

func (g *gannet) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", g.port, path) }

// api makes a call of the server API that must succeed; its result.
func (g *gannet) api(method string, body object) object {
	g.t.Helper()
	text, err := json.Marshal(body)
	must(g.t, err)
	result, err := g.try(method, text)
	must(g.t, err)
	return result
}

// try makes a call that may fail: not answered, or answered with an error.
func (g *gannet) try(method string, body []byte) (object, error) {
	request, err := http.NewRequest("POST", g.url("/api/"+method), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-API-Key", apiKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Result object
		Error  object
	}
	if err = json.Unmarshal(text, &answer); err == nil && answer.Error != nil {
		err = fmt.Errorf("%s: %v", method, answer.Error)
	}
	return answer.Result, err
}

func (g *gannet) socket() string {
	return fmt.Sprintf("ws://127.0.0.1:%d/connection/websocket", g.port)
}

// library is a node made of the library.
type library struct {
	*centrifuge.Node
	port int
}

func (l *library) socket() string {
	return fmt.Sprintf("ws://127.0.0.1:%d/connection/websocket", l.port)
}

func startLibrary(t *testing.T, from topology) *library {
	t.Helper()
	node, err := centrifuge.New(centrifuge.Config{Name: "library", LogLevel: centrifuge.LogLevelNone})
	must(t, err)
	shards := []*centrifuge.RedisShard{}
	for _, config := range from.library {
		shard, err := centrifuge.NewRedisShard(node, config)
		must(t, err)
		shards = append(shards, shard)
	}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Prefix: "centrifugo", Shards: shards})
	must(t, err)
	node.SetBroker(broker)
	presence, err := centrifuge.NewRedisPresenceManager(
		node, centrifuge.RedisPresenceManagerConfig{Prefix: "centrifugo", Shards: shards})
	must(t, err)
	node.SetPresenceManager(presence)
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: ""}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(event centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			hi, pr := strings.HasPrefix(event.Channel, "hi:"), strings.HasPrefix(event.Channel, "pr:")
			reply(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{
				EnableRecovery: hi, AllowedDeltaTypes: []centrifuge.DeltaType{centrifuge.DeltaTypeFossil},
				EmitPresence: pr, EmitJoinLeave: pr, PushJoinLeave: pr,
			}}, nil)
		})
	})
	node.OnSurvey(func(event centrifuge.SurveyEvent, reply centrifuge.SurveyCallback) {
		// Nobody's channels: what it says of its own is told apart by its code.
		reply(centrifuge.SurveyReply{Code: 0})
	})
	must(t, node.Run())
	paths := http.NewServeMux()
	paths.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	paths.Handle("/connection/http_stream", centrifuge.NewHTTPStreamHandler(node, centrifuge.HTTPStreamConfig{}))
	paths.Handle("/connection/sse", centrifuge.NewSSEHandler(node, centrifuge.SSEConfig{}))
	paths.Handle("/emulation", centrifuge.NewEmulationHandler(node, centrifuge.EmulationConfig{}))
	server := httptest.NewServer(paths)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = node.Shutdown(ctx)
		server.Close()
	})
	return &library{Node: node, port: server.Listener.Addr().(*net.TCPAddr).Port}
}

// member is a client of the official SDK in one channel.
type member struct {
	t      *testing.T
	client *sdk.Client
	sub    *sdk.Subscription
	// What it heard, as text.
	heard chan string
	began chan sdk.SubscribedEvent
}

func join(t *testing.T, socket, channel string, config sdk.SubscriptionConfig) *member {
	t.Helper()
	client := sdk.NewJsonClient(socket, sdk.Config{})
	sub, err := client.NewSubscription(channel, config)
	must(t, err)
	heard, began := make(chan string, 1024), make(chan sdk.SubscribedEvent, 16)
	m := &member{t, client, sub, heard, began}
	sub.OnPublication(func(event sdk.PublicationEvent) {
		heard <- fmt.Sprintf("%d %s", event.Offset, event.Data)
	})
	sub.OnJoin(func(event sdk.JoinEvent) { heard <- "join " + event.Client })
	sub.OnLeave(func(event sdk.LeaveEvent) { heard <- "leave " + event.Client })
	sub.OnSubscribed(func(event sdk.SubscribedEvent) { began <- event })
	sub.OnUnsubscribed(func(event sdk.UnsubscribedEvent) { heard <- fmt.Sprintf("unsubscribed %d", event.Code) })
	client.OnDisconnected(func(event sdk.DisconnectedEvent) { heard <- fmt.Sprintf("disconnected %d", event.Code) })
	must(t, sub.Subscribe())
	must(t, client.Connect())
	t.Cleanup(client.Close)
	return m
}

func (m *member) subscribed() sdk.SubscribedEvent {
	m.t.Helper()
	select {
	case event := <-m.began:
		return event
	case <-time.After(patience):
		m.t.Fatal("not subscribed")
		panic("unreachable")
	}
}

func (m *member) hears(expected ...string) {
	m.t.Helper()
	for _, one := range expected {
		select {
		case heard := <-m.heard:
			if heard != one {
				m.t.Fatalf("heard %q, not %q", heard, one)
			}
		case <-time.After(patience):
			m.t.Fatalf("did not hear %q", one)
		}
	}
}

// resumed is the reply to a subscribe command with a position.
type resumed struct {
	Recovered    bool
	Epoch        string
	Offset       uint64
	Publications []struct {
		Data   json.RawMessage
		Offset uint64
	}
}

func (r resumed) data() []string {
	all := []string{}
	for _, one := range r.Publications {
		all = append(all, string(one.Data))
	}
	return all
}

// resume subscribes as a client does that comes from another node with its position.
func resume(t *testing.T, socket, channel string, offset uint64, epoch string) resumed {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial(socket, nil)
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	must(t, conn.WriteJSON(object{"id": 1, "connect": object{}}))
	subscribe := object{"channel": channel, "recover": true, "offset": offset, "epoch": epoch}
	must(t, conn.WriteJSON(object{"id": 2, "subscribe": subscribe}))
	for {
		_, text, err := conn.ReadMessage()
		must(t, err)
		for _, line := range bytes.Split(text, []byte("\n")) {
			var reply struct {
				ID        int
				Subscribe *resumed
				Error     object
			}
			must(t, json.Unmarshal(line, &reply))
			if reply.ID != 2 {
				continue
			}
			if reply.Subscribe == nil {
				t.Fatalf("refused: %s", line)
			}
			return *reply.Subscribe
		}
	}
}
