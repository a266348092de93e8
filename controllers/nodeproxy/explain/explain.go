// Package explain says in plain words what a node does with packets to one
// address and port: whose it is, by which policy, to which endpoints, who is
// remembered by session affinity, which connections are tracked. It reads the
// kernel, over netlink, so that it tells what is and not what should be; the
// running program is only asked which Services it has in quarantine.
package explain

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// QuarantinePath is where the running program's metrics server tells the
// Services in quarantine, as JSON.
const QuarantinePath = "/quarantine"

// Question is what to explain.
type Question struct {
	Frontend nft.Frontend
	// From is the packet's source; the zero value means anybody's.
	From netip.Addr
	// Program is the address:port of the running program's metrics server.
	Program string
}

// Answer is all that was found out.
type Answer struct {
	Question
	Kernel nft.Inspection
	// Flows are the tracked connections to the frontend, or why they cannot be
	// read.
	Flows    []Flow
	FlowsErr error
	// Refused are the Services in quarantine: the frontend's own, or all where
	// it is none, for one of them may want it. RefusedErr is why that is not
	// known.
	Refused    []nodeproxy.Refusal
	RefusedErr error
	// At is when it was looked.
	At time.Time
}

// Flow is one tracked connection.
type Flow struct {
	Client netip.AddrPort // as it sees itself
	// Endpoint is who answers; the frontend itself when nothing is translated.
	Endpoint netip.AddrPort
	// Seen is the source the endpoint sees.
	Seen    netip.AddrPort
	State   string // of TCP
	Expires time.Duration
}

// Ask finds the answer, in the network namespace of the calling thread.
func Ask(ctx context.Context, q Question) (Answer, error) {
	a := Answer{Question: q, At: time.Now()}
	var err error
	if a.Kernel, err = nft.Inspect(q.Frontend, q.From); err != nil {
		return a, err
	}
	a.Flows, a.FlowsErr = flows(q)
	a.Refused, a.RefusedErr = refused(ctx, q)
	a.Refused = slices.DeleteFunc(a.Refused, func(r nodeproxy.Refusal) bool {
		return (r.Family == "IPv6") != q.Frontend.Addr.Is6() || a.Kernel.Target != "" && r.Service != a.Kernel.Service
	})
	return a, nil
}

// flows reads the tracked connections to a frontend.
func flows(q Question) ([]Flow, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening connection tracking: %w", err)
	}
	defer handle.Close()
	family := netlink.InetFamily(unix.AF_INET)
	if q.Frontend.Addr.Is6() {
		family = unix.AF_INET6
	}
	all, err := handle.ConntrackTableList(netlink.ConntrackTable, family)
	if err != nil {
		return nil, fmt.Errorf("reading connection tracking: %w", err)
	}
	var out []Flow
	for _, f := range all {
		to := nft.Frontend{Addr: addrOf(f.Forward.DstIP), Protocol: nft.Protocol(f.Forward.Protocol), Port: f.Forward.DstPort}
		client := netip.AddrPortFrom(addrOf(f.Forward.SrcIP), f.Forward.SrcPort)
		if to != q.Frontend || q.From.IsValid() && client.Addr() != q.From {
			continue
		}
		flow := Flow{
			Client:   client,
			Endpoint: netip.AddrPortFrom(addrOf(f.Reverse.SrcIP), f.Reverse.SrcPort),
			Seen:     netip.AddrPortFrom(addrOf(f.Reverse.DstIP), f.Reverse.DstPort),
			Expires:  time.Duration(f.TimeOut) * time.Second,
		}
		if tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP); ok {
			flow.State = stateOf(tcp.State)
		}
		out = append(out, flow)
	}
	slices.SortFunc(out, func(a, b Flow) int { return a.Client.Compare(b.Client) })
	return out, nil
}

// states are those of linux/netfilter/nf_conntrack_tcp.h.
var states = []string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}

func stateOf(n uint8) string {
	if int(n) < len(states) {
		return states[n]
	}
	return fmt.Sprint(n)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// refused asks the running program which Services are in quarantine.
func refused(ctx context.Context, q Question) ([]nodeproxy.Refusal, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+q.Program+QuarantinePath, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", q.Program, response.Status)
	}
	var all []nodeproxy.Refusal
	if err := json.NewDecoder(io.LimitReader(response.Body, 64<<20)).Decode(&all); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", q.Program, err)
	}
	return all, nil
}

// Quarantine serves QuarantinePath.
func Quarantine(refused func() []nodeproxy.Refusal) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		all := refused()
		if all == nil {
			all = []nodeproxy.Refusal{}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(all) // the client may be gone
	})
}
