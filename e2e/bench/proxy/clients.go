package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// clientsRole is the argument that makes this program a number of clients: a
// process of their own, with nothing else in it that could hold them up.
const clientsRole = "clients"

// volley is what clients are told to do: to connect to random ones of Targets,
// each one after another, Count times or else for a while.
type volley struct {
	Targets []netip.AddrPort
	Clients int
	Count   int
	For     time.Duration
}

// outcome is what came of it.
type outcome struct {
	Made, Failed int
	Elapsed      time.Duration
	// Times are those of connect(), in no order, only where a Count was given.
	Times []time.Duration
	// Why is an error of those that failed.
	Why string
}

// perSecond is the rate of connections made.
func (o outcome) perSecond() float64 { return float64(o.Made) / o.Elapsed.Seconds() }

// fire lets clients in a namespace connect, in a process of their own. Where they
// are timed, failed connections are an error, as their times would be missing.
func fire(ctx context.Context, from *sandbox.NetNS, v volley) (o outcome, err error) {
	request, err := json.Marshal(v)
	if err != nil {
		return o, err
	}
	self, err := os.Executable()
	if err != nil {
		return o, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, clientsRole)
	cmd.Env = append(os.Environ(), "GOGC=off", "GOMAXPROCS="+strconv.Itoa(v.Clients+1))
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), &out, os.Stderr
	if err := from.Start(cmd); err != nil {
		return o, err
	}
	if err := cmd.Wait(); err != nil {
		return o, fmt.Errorf("the clients: %w", err)
	}
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		return o, err
	}
	if o.Failed > 0 && (v.Count > 0 || o.Made == 0) {
		return o, fmt.Errorf("%d of %d connections from %s failed: %s", o.Failed, o.Failed+o.Made, from.Name(), o.Why)
	}
	return o, nil
}

// runClients is that process.
func runClients(in io.Reader, out io.Writer) error {
	var v volley
	if err := json.NewDecoder(in).Decode(&v); err != nil {
		return err
	}
	warm := v
	warm.Count = 300
	warm.run()
	return json.NewEncoder(out).Encode(v.run())
}

func (v volley) run() outcome {
	each := make([]outcome, v.Clients)
	began := time.Now()
	var clients sync.WaitGroup
	for i := range each {
		clients.Go(func() { each[i] = v.one(began.Add(v.For)) })
	}
	clients.Wait()
	o := outcome{Elapsed: time.Since(began)}
	for _, e := range each {
		o.Made += e.Made
		o.Failed += e.Failed
		o.Times = append(o.Times, e.Times...)
		if e.Why != "" {
			o.Why = e.Why
		}
	}
	return o
}

// one is a single client.
func (v volley) one(end time.Time) (o outcome) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	o.Times = make([]time.Duration, 0, v.Count)
	for v.Count > o.Made+o.Failed || v.Count == 0 && time.Now().Before(end) {
		fd, took, err := connect(v.Targets[rand.IntN(len(v.Targets))], attempt)
		if err == nil {
			err = unix.Close(fd)
		}
		if err != nil {
			o.Failed++
			o.Why = err.Error()
			continue
		}
		o.Made++
		if v.Count > 0 {
			o.Times = append(o.Times, took)
		}
	}
	return o
}
