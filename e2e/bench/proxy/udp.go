package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// flow is where the packets of a UDP flow arrive.
type flow struct{ arrivals chan arrival }

// arrival is the first packet at a backend of those sent after the last one at
// the other.
type arrival struct {
	letter byte
	number uint64
	at     time.Time
}

// packetEvery is the pause between two packets of the flow.
const packetEvery = time.Millisecond

// newFlow lets the two backends take datagrams.
func newFlow(ctx context.Context, backends *sandbox.NetNS) (*flow, error) {
	f := &flow{arrivals: make(chan arrival, 256)}
	packets := make(chan arrival, 256)
	for a, letter := range map[netip.Addr]byte{backendA: 'A', backendB: 'B'} {
		conn, err := backends.ListenPacket(ctx, "udp4", netip.AddrPortFrom(a, backendPort).String())
		if err != nil {
			return nil, err
		}
		go func() {
			var packet [8]byte
			for {
				_, _, err := conn.ReadFrom(packet[:])
				if errors.Is(err, net.ErrClosed) {
					return
				}
				packets <- arrival{letter, binary.BigEndian.Uint64(packet[:]), time.Now()}
			}
		}()
	}
	go f.sort(packets)
	return f, nil
}

// sort tells of the packets that are the first at a backend. Two sockets are read
// side by side, so an earlier packet may come later.
func (f *flow) sort(packets <-chan arrival) {
	var last arrival
	for p := range packets {
		if p.number < last.number {
			continue
		}
		if p.letter != last.letter {
			select {
			case f.arrivals <- p:
			default: // nobody is interested
			}
		}
		last = p
	}
}

// send sends a packet a millisecond from the same port to the Service, until the
// context ends.
func (w *world) send(ctx context.Context) error {
	conn, err := w.pod.DialContext(ctx, "udp4", netip.AddrPortFrom(udpAddress, 80).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	tick := time.NewTicker(packetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			// The time numbers packets; they are refused while there is no endpoint.
			_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano())))
		}
	}
}

// followUDP moves the backend of an established flow to and fro, and returns how
// long after the request for each move its packets arrived there.
func (w *world) followUDP(ctx context.Context, s *schedule) (times []time.Duration, err error) {
	sending, stop := context.WithCancel(ctx)
	sent := make(chan error, 1)
	go func() { sent <- w.send(sending) }()
	defer func() {
		stop()
		err = errors.Join(err, <-sent)
	}()
	for next := backendB; ; next = other(next) {
		pause(ctx, followPause) // the flow is established
		for len(w.flow.arrivals) > 0 {
			<-w.flow.arrivals
		}
		var began time.Time
		ok, err := s.take(ctx, func(ctx context.Context) error {
			began = time.Now()
			return w.objects.move(ctx, udpService, v1.ProtocolUDP, next)
		})
		if !ok || err != nil {
			return times, err
		}
		at, err := w.flow.await(ctx, next)
		if err != nil {
			return times, err
		}
		times = append(times, at.Sub(began))
	}
}

// await returns when the flow's packets arrived at a backend.
func (f *flow) await(ctx context.Context, at netip.Addr) (time.Time, error) {
	late := time.NewTimer(followTime)
	defer late.Stop()
	for {
		select {
		case a := <-f.arrivals:
			if a.letter == letterOf(at) {
				return a.at, nil
			}
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case <-late.C:
			return time.Time{}, errors.New("an established UDP flow does not move to the new endpoint")
		}
	}
}
