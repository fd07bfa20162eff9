// Certificates that come by themselves, from a real ACME server (Pebble) that asks by TLS-ALPN-01 on loopback.
package acme

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Nothing that is waited for takes longer, on a machine that is busy with something else.
const patience = 90 * time.Second

var names = []string{"one.example", "two.example"}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

// run starts a program that ends with the test; its log is shown if the test fails.
func run(t *testing.T, environment []string, program string, arguments ...string) func() {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	must(t, err)
	command := exec.Command(program, arguments...)
	command.Stdout, command.Stderr, command.Env = log, log, append(os.Environ(), environment...)
	must(t, command.Start())
	ended := make(chan struct{})
	go func() { _ = command.Wait(); close(ended) }()
	stop := func() {
		_ = command.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = command.Process.Kill()
			<-ended
		}
	}
	t.Cleanup(func() {
		stop()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(program), text)
		}
		_ = log.Close()
	})
	return stop
}

// until waits for something to be so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// authority is a Pebble that asks at one port, and what its certificates are from.
type authority struct {
	directory string
	ca        string
	roots     *x509.CertPool
}

func program(t *testing.T, name string) string {
	t.Helper()
	folder := os.Getenv("PEBBLE_PROGRAMS")
	if folder == "" {
		t.Fatal("PEBBLE_PROGRAMS names no folder with pebble and pebble-challtestsrv: tests/run acme builds them")
	}
	return filepath.Join(folder, name)
}

// start runs an authority whose certificates are good for so many seconds, and who asks at this port.
func start(t *testing.T, asksAt, seconds int) authority {
	t.Helper()
	folder, listen, manage, dns := t.TempDir(), freePort(t), freePort(t), freePort(t)
	run(t, nil, program(t, "pebble-challtestsrv"), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "",
		"-https01", "", "-tlsalpn01", "", "-doh", "", "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns),
		"-management", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	folder = filepath.Join(folder, "own")
	own := self(t, folder)
	config := map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", listen), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", manage),
		"certificate": filepath.Join(folder, "cert.pem"), "privateKey": filepath.Join(folder, "key.pem"),
		"httpPort": freePort(t), "tlsPort": asksAt, "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]any{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": seconds}},
	}}
	text, err := json.Marshal(config)
	must(t, err)
	file := filepath.Join(folder, "pebble.json")
	must(t, os.WriteFile(file, text, 0o600))
	run(t, []string{"PEBBLE_VA_NOSLEEP=1"}, program(t, "pebble"), "-config", file, "-dnsserver",
		fmt.Sprintf("127.0.0.1:%d", dns))
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: own}}}
	roots := x509.NewCertPool()
	until(t, "the authority's root", func() bool {
		response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/roots/0", manage))
		if err != nil {
			return false
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		return err == nil && response.StatusCode == 200 && roots.AppendCertsFromPEM(text)
	})
	return authority{fmt.Sprintf("https://127.0.0.1:%d/dir", listen), filepath.Join(folder, "ca.pem"), roots}
}

// self makes an authority and a certificate for loopback in a folder.
func self(t *testing.T, folder string) *x509.CertPool {
	t.Helper()
	if output, err := exec.Command("../tls/certificates", folder).CombinedOutput(); err != nil {
		t.Fatalf("certificates: %v: %s", err, output)
	}
	text, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool
}

type server struct {
	t              *testing.T
	port, internal int
	stop           func()
}

// serve runs Gannet with certificates that come by themselves into a folder.
func serve(t *testing.T, port int, by authority, cache string) *server {
	t.Helper()
	binary := os.Getenv("GANNET")
	if binary == "" {
		binary = "../../target/release/gannet"
	}
	internal := freePort(t)
	stop := run(t, nil, binary, "--http_server.address=127.0.0.1", "--http_server.port="+strconv.Itoa(port),
		"--http_server.internal_address=127.0.0.1", "--http_server.internal_port="+strconv.Itoa(internal),
		"--http_server.tls_external", "--prometheus.enabled", "--echo.enabled", "--shutdown.delay=0s",
		"--shutdown.spread=100ms", "--http_server.tls_autocert.enabled", "--http_server.tls_autocert.cache_dir="+cache,
		`--http_server.tls_autocert.host_whitelist=["`+strings.Join(names, `","`)+`"]`,
		"--http_server.tls_autocert.email=test@one.example", "--http_server.tls_autocert.server_name=two.example",
		"--http_server.tls_autocert.directory_url="+by.directory, "--http_server.tls_autocert.directory_ca_pem="+by.ca)
	server := &server{t, port, internal, stop}
	until(t, "the server", func() bool { return server.page() != "" })
	return server
}

func (s *server) page() string {
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", s.internal))
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

func (s *server) metric(name string) int {
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\d+)$`).FindStringSubmatch(s.page())
	if found == nil {
		s.t.Fatalf("no metric %s", name)
	}
	number, err := strconv.Atoi(found[1])
	must(s.t, err)
	return number
}

// dial connects to a name, by the roots that are believed.
func (s *server) dial(name string, roots *x509.CertPool) (*tls.Conn, error) {
	config := &tls.Config{ServerName: name, RootCAs: roots, NextProtos: []string{"http/1.1"}}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return tls.DialWithDialer(dialer, "tcp", fmt.Sprintf("127.0.0.1:%d", s.port), config)
}

// serial is that of the certificate which is shown for a name; empty while there is none.
func (s *server) serial(name string, roots *x509.CertPool) string {
	conn, err := s.dial(name, roots)
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestCertificatesComeAndAreKept(t *testing.T) {
	port, cache := freePort(t), filepath.Join(t.TempDir(), "certificates")
	by := start(t, port, 90*24*3600)
	server := serve(t, port, by, cache)
	serials := map[string]string{}
	for _, name := range names {
		until(t, "a certificate for "+name, func() bool { serials[name] = server.serial(name, by.roots); return serials[name] != "" })
	}
	// Whoever asks for no name gets that of server_name, and nobody gets one that is not listed.
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true})
	must(t, err)
	if shown := conn.ConnectionState().PeerCertificates[0].DNSNames; len(shown) != 1 || shown[0] != "two.example" {
		t.Errorf("without a name: %v", shown)
	}
	_ = conn.Close()
	if server.serial("three.example", by.roots) != "" {
		t.Error("a certificate for a name that is not listed")
	}
	// When nobody asks, there is no answer.
	config := &tls.Config{ServerName: "one.example", InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}
	if conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config); err == nil {
		_ = conn.Close()
		t.Error("an answer to a question that nobody asked")
	}
	if orders := server.metric("gannet_tls_autocert_orders_total"); orders != len(names) {
		t.Errorf("%d orders", orders)
	}
	if !strings.Contains(server.page(), `gannet_tls_certificate_expiry_timestamp_seconds{port="public",certificate="1"}`) {
		t.Error("no expiry of the second certificate")
	}
	files, err := os.ReadDir(cache)
	must(t, err)
	if len(files) != len(names)+1 {
		t.Errorf("%v: certificates and an account", files)
	}
	for _, file := range files {
		info, err := file.Info()
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s may be read by others: %s", file.Name(), info.Mode())
		}
	}
	text, err := os.ReadFile(filepath.Join(cache, "one.example"))
	must(t, err)
	if block, _ := pem.Decode(text); block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		t.Error("the key is not first in its file")
	}
	// A restart needs no order.
	server.stop()
	server = serve(t, port, by, cache)
	for _, name := range names {
		if serial := server.serial(name, by.roots); serial != serials[name] {
			t.Errorf("%s: %s after a restart, not %s", name, serial, serials[name])
		}
	}
	if orders := server.metric("gannet_tls_autocert_orders_total"); orders != 0 {
		t.Errorf("%d orders after a restart", orders)
	}
}

func TestCertificatesAreRenewedAndNobodyIsLost(t *testing.T) {
	port, cache := freePort(t), filepath.Join(t.TempDir(), "certificates")
	by := start(t, port, 60)
	server := serve(t, port, by, cache)
	var conn *tls.Conn
	until(t, "a certificate", func() bool {
		var err error
		conn, err = server.dial(names[0], by.roots)
		return err == nil
	})
	defer func() { _ = conn.Close() }()
	first := conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	// Who was there before is served all the time.
	answers := bufio.NewReader(conn)
	ask := func() {
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err := conn.Write([]byte("GET /nowhere HTTP/1.1\r\nHost: one.example\r\n\r\n"))
		must(t, err)
		answer, err := http.ReadResponse(answers, nil)
		must(t, err)
		_, err = io.Copy(io.Discard, answer.Body)
		must(t, err)
		if answer.StatusCode != 404 {
			t.Fatalf("%s", answer.Status)
		}
	}
	until(t, "another certificate", func() bool {
		ask()
		serial := server.serial(names[0], by.roots)
		return serial != "" && serial != first
	})
	ask()
	if failures := server.metric("gannet_tls_autocert_failures_total"); failures != 0 {
		t.Errorf("%d failures", failures)
	}
}

func TestAServerServesWithoutItsAuthority(t *testing.T) {
	port, folder := freePort(t), filepath.Join(t.TempDir(), "own")
	self(t, folder)
	nobody := authority{fmt.Sprintf("https://127.0.0.1:%d/dir", freePort(t)), filepath.Join(folder, "ca.pem"), nil}
	server := serve(t, port, nobody, filepath.Join(folder, "certificates"))
	until(t, "orders that fail", func() bool {
		return server.metric("gannet_tls_autocert_failures_total") >= len(names)
	})
	if serial := server.serial(names[0], nil); serial != "" {
		t.Errorf("a certificate from nowhere: %s", serial)
	}
}
