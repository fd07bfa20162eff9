// Starts the server under test on a free loopback port and stops it again, makes tokens and calls the server API: what
// every test with the official Go SDK begins and ends with.
package sdk

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

const (
	apiKey = "test-api-key"
	secret = "test-secret-of-at-least-thirty-two-bytes"
	// Nothing that is waited for takes longer.
	patience = 10 * time.Second
)

// A folder with ca.pem, cert.pem and key.pem: then all that is said is said over TLS. SSL_CERT_FILE names the first.
var tlsFolder = os.Getenv("TESTS_TLS")

// scheme is http or ws, with an s if there is TLS.
func scheme(name string) string {
	if tlsFolder != "" {
		return name + "s"
	}
	return name
}

type object = map[string]any

type server struct {
	t    *testing.T
	port int
}

// start runs a server with these channel namespaces and options until the test ends.
func start(t *testing.T, namespaces map[string]object, options ...string) *server {
	t.Helper()
	root, err := filepath.Abs("../../..")
	must(t, err)
	binary := os.Getenv("GANNET")
	if binary == "" {
		binary = filepath.Join(root, "target/release/gannet")
	}
	list := []object{}
	for name, options := range namespaces {
		namespace := object{"name": name}
		for key, value := range options {
			namespace[key] = value
		}
		list = append(list, namespace)
	}
	server := &server{t: t, port: freePort(t)}
	options = append([]string{
		"--http_server.address", "127.0.0.1", "--http_server.port", strconv.Itoa(server.port), "--reactors", "2",
		"--health.enabled", "--http_api.key", apiKey, "--client.token.hmac_secret_key", secret,
		"--channel.namespaces", string(toJSON(t, list)), "--shutdown.delay", "0s", "--shutdown.spread", "100ms",
	}, options...)
	if tlsFolder != "" {
		options = append(options, "--http_server.tls.enabled", "--http_server.tls.cert_pem="+tlsFolder+"/cert.pem",
			"--http_server.tls.key_pem="+tlsFolder+"/key.pem")
	}
	logs := filepath.Join(root, "tests/.cache/logs/servers")
	must(t, os.MkdirAll(logs, 0o755))
	log, err := os.Create(filepath.Join(logs, fmt.Sprintf("%d.log", server.port)))
	must(t, err)
	process := exec.Command(binary, options...)
	process.Stdout, process.Stderr = log, log
	must(t, process.Start())
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	t.Cleanup(func() {
		_ = process.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the server ended with %v, see %s", err, log.Name())
			}
		case <-time.After(patience):
			_ = process.Process.Kill()
			t.Errorf("the server does not end, see %s", log.Name())
		}
		_ = log.Close()
	})
	for deadline := time.Now().Add(patience); ; {
		if response, err := http.Get(server.http() + "/health"); err == nil {
			_ = response.Body.Close()
			return server
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended at start (%v), see %s", err, log.Name())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server is not healthy, see %s", log.Name())
		}
	}
}

func freePort(t *testing.T) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

func (s *server) http() string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme("http"), s.port) }

// api makes a call of the server API that must succeed; its result.
func (s *server) api(method string, body object) object {
	s.t.Helper()
	request, err := http.NewRequest("POST", s.http()+"/api/"+method, bytes.NewReader(toJSON(s.t, body)))
	must(s.t, err)
	request.Header.Set("X-API-Key", apiKey)
	response, err := http.DefaultClient.Do(request)
	must(s.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	must(s.t, err)
	var answer struct {
		Result object
		Error  any
	}
	if json.Unmarshal(text, &answer) != nil || answer.Error != nil || response.StatusCode != 200 {
		s.t.Fatalf("api %s: %d %s", method, response.StatusCode, text)
	}
	return answer.Result
}

// client makes a client of this encoding that is closed when the test ends.
func (s *server) client(encoding string, config centrifuge.Config) *centrifuge.Client {
	config.MinReconnectDelay, config.MaxReconnectDelay = 20*time.Millisecond, 200*time.Millisecond
	url := fmt.Sprintf("%s://127.0.0.1:%d/connection/websocket", scheme("ws"), s.port)
	client := centrifuge.NewJsonClient(url, config)
	if encoding == "protobuf" {
		client = centrifuge.NewProtobufClient(url, config)
	}
	s.t.Cleanup(client.Close)
	return client
}

// connect makes a client of a user, connected; and its id.
func (s *server) connect(encoding, user string) (*centrifuge.Client, string) {
	s.t.Helper()
	client := s.client(encoding, centrifuge.Config{Token: token(object{"sub": user})})
	connected := make(chan centrifuge.ConnectedEvent, 10)
	client.OnConnected(func(event centrifuge.ConnectedEvent) { connected <- event })
	must(s.t, client.Connect())
	return client, next(s.t, connected).ClientID
}

// subscription is one with what happens to it, in order.
type subscription struct {
	*centrifuge.Subscription
	began        chan centrifuge.SubscribedEvent
	ended        chan centrifuge.UnsubscribedEvent
	publications chan centrifuge.PublicationEvent
	comings      chan string
}

func subscribe(t *testing.T, client *centrifuge.Client, channel string, config centrifuge.SubscriptionConfig) *subscription {
	t.Helper()
	config.MinResubscribeDelay, config.MaxResubscribeDelay = 20*time.Millisecond, 200*time.Millisecond
	sub, err := client.NewSubscription(channel, config)
	must(t, err)
	it := &subscription{
		sub, make(chan centrifuge.SubscribedEvent, 100), make(chan centrifuge.UnsubscribedEvent, 100),
		make(chan centrifuge.PublicationEvent, 1000), make(chan string, 100),
	}
	sub.OnSubscribed(func(event centrifuge.SubscribedEvent) { it.began <- event })
	sub.OnUnsubscribed(func(event centrifuge.UnsubscribedEvent) { it.ended <- event })
	sub.OnPublication(func(event centrifuge.PublicationEvent) { it.publications <- event })
	sub.OnJoin(func(event centrifuge.JoinEvent) { it.comings <- "+" + event.User })
	sub.OnLeave(func(event centrifuge.LeaveEvent) { it.comings <- "-" + event.User })
	must(t, sub.Subscribe())
	return it
}

// hears waits for publications with this data, in this order and with nothing between.
func (s *subscription) hears(t *testing.T, all ...string) {
	t.Helper()
	for _, expected := range all {
		equal(t, string(next(t, s.publications).Data), expected)
	}
}

// token makes a JWT signed with HS256.
func token(claims object) string {
	part := func(value any) string {
		text, _ := json.Marshal(value)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(object{"alg": "HS256", "typ": "JWT"}) + "." + part(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func next[T any](t *testing.T, all <-chan T) T {
	t.Helper()
	select {
	case one := <-all:
		return one
	case <-time.After(patience):
		t.Fatalf("nothing came")
		panic("unreachable")
	}
}

func toJSON(t *testing.T, value any) []byte {
	text, err := json.Marshal(value)
	must(t, err)
	return text
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t *testing.T, got, expected T) {
	t.Helper()
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", expected) {
		t.Fatalf("got %+v, expected %+v", got, expected)
	}
}
