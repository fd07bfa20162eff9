// Whatever happens to Redis, to a node or between them: what was answered as stored and is kept comes to all who listen,
// once; no client is disconnected for it; and delivery goes on. By clients of the official SDK on two nodes.
//
// FAULTS_CLIENTS=1000 makes it long: as many clients, longer faults, and time is a promise, too.
package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sdk "github.com/centrifugal/centrifuge-go"
)

const (
	// Channels that the clients are spread over.
	spread = 10
	// One is due each so often.
	pace = 10 * time.Millisecond
	// Delivery goes on so soon after Redis is back.
	soon = 2 * time.Second
	// The same where connections are dead and nobody says so.
	soonAfterSilence = 4 * time.Second
)

// long tells the run by hand from the one of each change.
var crowdSize, long = func() (int, bool) {
	count, err := strconv.Atoi(os.Getenv("FAULTS_CLIENTS"))
	if err != nil {
		return 40, false
	}
	return count, true
}()

// listener is one client, and what it heard.
type listener struct {
	client  *sdk.Client
	channel string

	mu    sync.Mutex
	heard map[int64]int
	// When it heard one for the first time that was published after the fault.
	first time.Time
	// Publications that went back.
	wrong, lost, told, begun int
	offset                   uint64
}

// trial is a fault with everything around it.
type trial struct {
	t         *testing.T
	nodes     []*gannet
	listeners []*listener
	// The number of the next publication, and the first after the fault.
	number, after atomic.Int64

	mu                        sync.Mutex
	stored                    map[string][]int64
	refused                   int
	worst                     time.Duration
	stop                      chan struct{}
	done                      sync.WaitGroup
	moves, forgets, mayVanish bool
	silent                    bool
	back                      time.Time
}

// row is a line of the table.
type row struct {
	name                                                       string
	stored, refused, gone, lost, twice, told, disconnected, mb int
	worst, goesOn                                              time.Duration
}

var (
	table   []row
	tableMu sync.Mutex
)

func (l *listener) take(number int64, offset uint64, after int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard[number]++
	if offset <= l.offset {
		l.wrong++
	}
	l.offset = offset
	if after > 0 && number >= after && l.first.IsZero() {
		l.first = time.Now()
	}
}

// listen makes one client; false if it is not subscribed in time.
func (r *trial) listen(socket string, at int) *listener {
	l := &listener{channel: fmt.Sprintf("fa:%d", at%spread), heard: map[int64]int{}}
	l.client = sdk.NewJsonClient(socket, sdk.Config{ReadTimeout: time.Minute, HandshakeTimeout: time.Minute})
	sub, err := l.client.NewSubscription(l.channel, sdk.SubscriptionConfig{})
	must(r.t, err)
	sub.OnPublication(func(event sdk.PublicationEvent) {
		if number, err := strconv.ParseInt(string(event.Data), 10, 64); err == nil {
			l.take(number, event.Offset, r.after.Load())
		}
	})
	sub.OnSubscribed(func(event sdk.SubscribedEvent) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.begun++
		if !event.Recovered {
			l.offset = event.StreamPosition.Offset
			if l.begun > 1 {
				l.told++
			}
		}
	})
	l.client.OnConnecting(func(event sdk.ConnectingEvent) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.begun > 0 {
			l.lost++
		}
	})
	must(r.t, sub.Subscribe())
	must(r.t, l.client.Connect())
	return l
}

// begin has everyone listen, and publications go on all the time.
func begin(t *testing.T, sockets []string, nodes ...*gannet) *trial {
	t.Helper()
	r := &trial{t: t, nodes: nodes, stored: map[string][]int64{}, stop: make(chan struct{})}
	for at := range crowdSize {
		r.listeners = append(r.listeners, r.listen(sockets[at%len(sockets)], at/len(sockets)))
	}
	t.Cleanup(func() {
		for _, l := range r.listeners {
			go l.client.Close()
		}
	})
	r.all("subscribed", func(l *listener) bool { return l.begun > 0 })
	ticks := make(chan int64)
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		defer close(ticks)
		for {
			select {
			case ticks <- r.number.Add(1):
				time.Sleep(pace)
			case <-r.stop:
				return
			}
		}
	}()
	for range 16 {
		r.done.Add(1)
		go func() {
			defer r.done.Done()
			for number := range ticks {
				r.publish(number)
			}
		}()
	}
	time.Sleep(r.length(time.Second))
	return r
}

// length of what is shorter in the run of each change.
func (r *trial) length(full time.Duration) time.Duration {
	if long {
		return full
	}
	return full / 3
}

func (r *trial) publish(number int64) {
	channel := fmt.Sprintf("fa:%d", number%spread)
	text, _ := json.Marshal(object{"channel": channel, "data": number})
	began := time.Now()
	result, err := r.nodes[int(number/spread)%len(r.nodes)].try("publish", text)
	took := time.Since(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.worst = max(r.worst, took)
	if _, stored := result["offset"]; err == nil && stored {
		r.stored[channel] = append(r.stored[channel], number)
	} else {
		r.refused++
	}
}

func (r *trial) all(what string, holds func(*listener) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(20 * time.Millisecond) {
		lacking := 0
		for _, l := range r.listeners {
			l.mu.Lock()
			if !holds(l) {
				lacking++
			}
			l.mu.Unlock()
		}
		if lacking == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not in time: %s; %d of %d lack it", what, lacking, len(r.listeners))
		}
	}
}

// over tells that the fault is over: from now on delivery is to go on.
func (r *trial) over() {
	r.back = time.Now()
	r.after.Store(r.number.Load() + 1)
}

// end waits until delivery goes on, and holds what was heard against what was stored.
func (r *trial) end(name string) {
	r.t.Helper()
	r.all("delivery goes on", func(l *listener) bool { return !l.first.IsZero() })
	goesOn := time.Duration(0)
	for _, l := range r.listeners {
		goesOn = max(goesOn, l.first.Sub(r.back))
	}
	time.Sleep(r.length(time.Second))
	close(r.stop)
	r.done.Wait()
	// What Redis has kept is owed to everyone.
	kept := map[string][]int64{}
	gone := 0
	for at := range spread {
		channel := fmt.Sprintf("fa:%d", at)
		has := map[int64]bool{}
		for _, one := range r.nodes[0].api("history", object{"channel": channel, "limit": -1})["publications"].([]any) {
			has[int64(one.(object)["data"].(float64))] = true
		}
		for _, number := range r.stored[channel] {
			if has[number] {
				kept[channel] = append(kept[channel], number)
			} else {
				gone++
			}
		}
	}
	missing := func(l *listener) int {
		count := 0
		for _, number := range kept[l.channel] {
			if l.heard[number] == 0 {
				count++
			}
		}
		return count
	}
	// Who was told that something is missing begins anew where the stream is.
	r.all("everything is heard", func(l *listener) bool { return missing(l) == 0 || l.told > 0 })
	line := row{name: name, refused: r.refused, gone: gone, worst: r.worst, goesOn: goesOn}
	for _, all := range r.stored {
		line.stored += len(all)
	}
	for _, l := range r.listeners {
		l.mu.Lock()
		if l.told == 0 {
			line.lost += missing(l)
		}
		for _, count := range l.heard {
			line.twice += count - 1
		}
		line.twice += l.wrong
		line.told += l.told
		line.disconnected += l.lost
		l.mu.Unlock()
	}
	for _, node := range r.nodes {
		line.mb = max(line.mb, resident(node.process.Process.Pid))
	}
	tableMu.Lock()
	table = append(table, line)
	tableMu.Unlock()
	r.judge(line)
}

func (r *trial) judge(line row) {
	r.t.Helper()
	promise := func(kept bool, what string, found any) {
		if !kept {
			r.t.Errorf("%s: %s: %v", line.name, what, found)
		}
	}
	promise(line.lost == 0, "publications that were stored and never heard", line.lost)
	promise(line.twice == 0, "publications heard twice or out of order", line.twice)
	promise(line.disconnected == 0 || r.moves, "clients disconnected", line.disconnected)
	promise(line.gone == 0 || r.mayVanish, "publications answered as stored and not there", line.gone)
	promise(line.told == 0 || r.mayVanish, "clients told of a gap", line.told)
	within := soon
	if r.silent {
		within = soonAfterSilence
	}
	// Clients that move come again when they like.
	promise(!long || r.moves || line.goesOn <= within, "delivery went on after", line.goesOn)
	if r.forgets {
		return
	}
	until(r.t, "all are present", func() bool {
		count := 0.0
		for at := range spread {
			text, _ := json.Marshal(object{"channel": fmt.Sprintf("fa:%d", at)})
			if stats, err := r.nodes[0].try("presence_stats", text); err == nil {
				clients, _ := stats["num_clients"].(float64)
				count += clients
			}
		}
		return int(count) == len(r.listeners)
	})
}

func resident(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
			kilobytes, _ := strconv.Atoi(fields[1])
			return kilobytes / 1024
		}
	}
	return 0
}

// store is a Redis that can be killed and started again.
type store struct {
	t       *testing.T
	port    int
	options []string
	process *exec.Cmd
}

func startStore(t *testing.T, more ...string) *store {
	t.Helper()
	s := &store{t: t, port: freePort(t)}
	s.options = append([]string{"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir(),
		"--repl-diskless-sync-delay", "0"}, more...)
	s.start()
	return s
}

func (s *store) start() {
	s.t.Helper()
	s.process = run(s.t, "redis-server", s.options...)
	until(s.t, "the Redis answers", func() bool { return strings.TrimSpace(cli(s.port, "PING")) == "PONG" })
}

func (s *store) kill() {
	must(s.t, s.process.Process.Kill())
	_ = s.process.Wait()
}

func (s *store) signal(signal syscall.Signal) { must(s.t, s.process.Process.Signal(signal)) }

// The store with its data on disk before anything is answered.
func durable(t *testing.T) *store {
	return startStore(t, "--appendonly", "yes", "--appendfsync", "always")
}

func at(port int) topology {
	return topology{gannet: []string{"--engine.redis.address", fmt.Sprintf("127.0.0.1:%d", port)}}
}

// settled are nodes that recover much, and whose failures are found soon.
func settled(t *testing.T, from ...topology) []*gannet {
	nodes := []*gannet{}
	for _, one := range from {
		nodes = append(nodes, startGannet(t, one, "--client.recovery_max_publication_limit", "100000"))
	}
	for _, node := range nodes {
		until(t, "the nodes know each other", func() bool { return len(node.api("info", object{})["nodes"].([]any)) == 2 })
	}
	return nodes
}

func sockets(nodes ...*gannet) []string {
	all := []string{}
	for _, node := range nodes {
		all = append(all, node.socket())
	}
	return all
}

// over one store, reached without anything between.
func direct(t *testing.T, s *store) *trial {
	nodes := settled(t, at(s.port), at(s.port))
	return begin(t, sockets(nodes...), nodes...)
}

func killed(t *testing.T) *trial {
	s := durable(t)
	r := direct(t, s)
	s.kill()
	time.Sleep(r.length(6 * time.Second))
	s.start()
	r.over()
	return r
}

func emptied(t *testing.T) *trial {
	s := startStore(t)
	r := direct(t, s)
	r.mayVanish = true
	s.kill()
	time.Sleep(r.length(6 * time.Second))
	s.start()
	r.over()
	return r
}

func stopped(t *testing.T) *trial {
	s := startStore(t)
	r := direct(t, s)
	s.signal(syscall.SIGSTOP)
	time.Sleep(r.length(30 * time.Second))
	s.signal(syscall.SIGCONT)
	r.over()
	return r
}

func full(t *testing.T) *trial {
	s := startStore(t)
	r := direct(t, s)
	cli(s.port, "CONFIG", "SET", "maxmemory", "1")
	time.Sleep(r.length(6 * time.Second))
	cli(s.port, "CONFIG", "SET", "maxmemory", "0")
	r.over()
	return r
}

func flushed(t *testing.T) *trial {
	s := startStore(t)
	r := direct(t, s)
	for range 20 {
		cli(s.port, "SCRIPT", "FLUSH")
		time.Sleep(r.length(200 * time.Millisecond))
	}
	r.over()
	return r
}

// relayed has a relay between Redis and both nodes.
func relayed(t *testing.T) (*trial, *relay) {
	s := startStore(t)
	between := startRelay(t, s.port)
	nodes := settled(t, at(between.port), at(between.port))
	return begin(t, sockets(nodes...), nodes...), between
}

func swallowed(t *testing.T) *trial {
	r, between := relayed(t)
	r.silent = true
	between.deaf.Store(true)
	// It is found after six seconds.
	time.Sleep(10 * time.Second)
	between.deaf.Store(false)
	r.over()
	return r
}

func slowed(t *testing.T) *trial {
	r, between := relayed(t)
	between.delay.Store(int64(250 * time.Millisecond))
	time.Sleep(r.length(12 * time.Second))
	between.delay.Store(0)
	r.over()
	return r
}

func cutOff(t *testing.T) *trial {
	s := startStore(t)
	between := startRelay(t, s.port)
	nodes := settled(t, at(s.port), at(between.port))
	r := begin(t, sockets(nodes...), nodes...)
	r.silent = true
	between.hole.Store(true)
	until(t, "the other has forgotten it", func() bool { return len(nodes[0].api("info", object{})["nodes"].([]any)) == 1 })
	between.hole.Store(false)
	r.over()
	until(t, "it is back", func() bool { return len(nodes[0].api("info", object{})["nodes"].([]any)) == 2 })
	return r
}

// Clients come by a balancer, and go to the other node.
func nodeKilled(t *testing.T) *trial {
	s := startStore(t)
	nodes := settled(t, at(s.port), at(s.port))
	balancer := startRelay(t, nodes[0].port, nodes[1].port)
	r := begin(t, []string{fmt.Sprintf("ws://127.0.0.1:%d/connection/websocket", balancer.port)}, nodes...)
	r.moves, r.forgets = true, true
	must(t, nodes[1].process.Process.Kill())
	r.over()
	return r
}

func failedOver(t *testing.T) *trial {
	master := startStore(t)
	replica := startStore(t, "--replicaof", "127.0.0.1", strconv.Itoa(master.port))
	sentinels := []string{}
	for range 3 {
		port, folder := freePort(t), t.TempDir()
		file := filepath.Join(folder, "sentinel.conf")
		text := fmt.Sprintf("port %d\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 %d 2\n"+
			"sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n", port, master.port)
		must(t, os.WriteFile(file, []byte(text), 0o600))
		run(t, "redis-sentinel", file)
		sentinels = append(sentinels, fmt.Sprintf("127.0.0.1:%d", port))
	}
	for _, one := range sentinels {
		port, _ := strconv.Atoi(strings.TrimPrefix(one, "127.0.0.1:"))
		until(t, "the sentinels know all", func() bool {
			said := cli(port, "SENTINEL", "MASTER", "mymaster")
			return strings.Contains(said, "num-slaves\n1") && strings.Contains(said, "num-other-sentinels\n2")
		})
	}
	from := topology{gannet: []string{"--engine.redis.sentinel_address", strings.Join(sentinels, ","),
		"--engine.redis.sentinel_master_name", "mymaster"}}
	nodes := settled(t, from, from)
	r := begin(t, sockets(nodes...), nodes...)
	r.mayVanish = true
	master.kill()
	until(t, "the replica takes over", func() bool { return strings.HasPrefix(cli(replica.port, "ROLE"), "master") })
	r.over()
	return r
}

// A master is killed, and its replica takes over; then a slot moves.
func clusterFailed(t *testing.T) *trial {
	stores, addresses := []*store{}, []string{}
	for range 6 {
		one := startStore(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--repl-ping-replica-period", "1")
		stores, addresses = append(stores, one), append(addresses, fmt.Sprintf("127.0.0.1:%d", one.port))
	}
	create := append([]string{"--cluster", "create"}, addresses...)
	create = append(create, "--cluster-replicas", "1", "--cluster-yes")
	output, err := exec.Command("redis-cli", create...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	until(t, "each master has a replica", func() bool {
		linked := 0
		for _, one := range stores {
			if strings.Contains(cli(one.port, "INFO", "replication"), "master_link_status:up") {
				linked++
			}
		}
		return linked == 3 && strings.Contains(cli(stores[0].port, "CLUSTER", "INFO"), "cluster_state:ok")
	})
	from := topology{gannet: []string{"--engine.redis.cluster_address", strings.Join(addresses, ",")}}
	nodes := settled(t, from, from)
	r := begin(t, sockets(nodes...), nodes...)
	r.mayVanish = true
	var left []*store
	for at, one := range stores {
		if strings.HasPrefix(cli(one.port, "ROLE"), "master") {
			left = append(append(left, stores[:at]...), stores[at+1:]...)
			one.kill()
			break
		}
	}
	until(t, "its replica takes over", func() bool {
		for _, one := range left {
			if !strings.Contains(cli(one.port, "CLUSTER", "INFO"), "cluster_state:ok") {
				return false
			}
		}
		return true
	})
	r.over()
	r.all("delivery goes on", func(l *listener) bool { return !l.first.IsZero() })
	moveSlot(t, left, "fa:3")
	return r
}

// moveSlot moves the slot of a channel, with what is in it, to another master.
func moveSlot(t *testing.T, stores []*store, channel string) {
	t.Helper()
	slot := strings.TrimSpace(cli(stores[0].port, "CLUSTER", "KEYSLOT", "{"+channel+"}"))
	masters := []*store{}
	for _, one := range stores {
		if strings.HasPrefix(cli(one.port, "ROLE"), "master") {
			masters = append(masters, one)
		}
	}
	id := func(one *store) string { return strings.TrimSpace(cli(one.port, "CLUSTER", "MYID")) }
	from, to := masters[0], masters[1]
	for at, one := range masters {
		if strings.TrimSpace(cli(one.port, "CLUSTER", "COUNTKEYSINSLOT", slot)) != "0" {
			from, to = one, masters[(at+1)%len(masters)]
		}
	}
	cli(to.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", id(from))
	cli(from.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", id(to))
	for _, key := range strings.Fields(cli(from.port, "CLUSTER", "GETKEYSINSLOT", slot, "100")) {
		cli(from.port, "MIGRATE", "127.0.0.1", strconv.Itoa(to.port), key, "0", "5000")
	}
	for _, one := range append([]*store{to, from}, masters...) {
		cli(one.port, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
	}
	until(t, "the slot is there", func() bool { return strings.TrimSpace(cli(to.port, "CLUSTER", "COUNTKEYSINSLOT", slot)) != "0" })
}

func TestFaults(t *testing.T) {
	t.Run("each", func(t *testing.T) {
		for name, fault := range map[string]func(*testing.T) *trial{
			"redis killed, back with its data":  killed,
			"redis killed, back empty":          emptied,
			"redis stands still":                stopped,
			"sentinel failover":                 failedOver,
			"cluster master killed, slot moved": clusterFailed,
			"pub/sub swallowed":                 swallowed,
			"500 ms latency":                    slowed,
			"redis out of memory":               full,
			"scripts flushed":                   flushed,
			"node killed":                       nodeKilled,
			"node cut off":                      cutOff,
		} {
			t.Run(name, func(t *testing.T) {
				if !long {
					t.Parallel()
				}
				fault(t).end(name)
			})
		}
	})
	fmt.Printf("%d clients on two nodes\n%-34s %7s %7s %5s %5s %5s %5s %12s %7s %9s %4s\n", crowdSize, "fault", "stored",
		"refused", "gone", "lost", "twice", "told", "disconnected", "worst", "goes on", "MB")
	for _, one := range table {
		fmt.Printf("%-34s %7d %7d %5d %5d %5d %5d %12d %7s %9s %4d\n", one.name, one.stored, one.refused, one.gone, one.lost,
			one.twice, one.told, one.disconnected, one.worst.Round(10*time.Millisecond),
			one.goesOn.Round(10*time.Millisecond), one.mb)
	}
}
