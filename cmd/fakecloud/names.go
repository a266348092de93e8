package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/fairway-lb/fairway/providers/fake/aws"
)

// ttl of all answers, in seconds: what comes and goes in a demonstration is to be
// seen at once. AWS has 60.
const ttl = 5

// names is a DNS server for the names of load balancers. It is the authority for
// the zone they are in, and for nothing else.
type names struct {
	zone    string
	account *aws.Account
	carried carriage
	// addr is where it is served; empty while it is not.
	addr    string
	servers []*dns.Server
}

func newNames(region string, account *aws.Account, carried carriage) *names {
	return &names{zone: "elb." + region + ".amazonaws.com.", account: account, carried: carried}
}

// serve serves on the same port over UDP and TCP. What fails later goes to failed.
func (n *names) serve(ctx context.Context, address string, failed chan<- error) error {
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp", address)
	if err != nil {
		return fmt.Errorf("listening for DNS: %w", err)
	}
	n.addr = packets.LocalAddr().String()
	streams, err := config.Listen(ctx, "tcp", n.addr)
	if err != nil {
		_ = packets.Close()
		return fmt.Errorf("listening for DNS: %w", err)
	}
	const timeout = 5 * time.Second
	n.servers = []*dns.Server{
		{PacketConn: packets, Handler: n, ReadTimeout: timeout, WriteTimeout: timeout},
		{Listener: streams, Handler: n, ReadTimeout: timeout, WriteTimeout: timeout, MaxTCPQueries: 100},
	}
	for _, s := range n.servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { failed <- s.ActivateAndServe() }()
		<-started
	}
	return nil
}

func (n *names) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, s := range n.servers {
		_ = s.ShutdownContext(ctx)
	}
}

// ServeDNS implements dns.Handler.
func (n *names) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	answer := n.answer(request)
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if o := request.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
	}
	answer.Truncate(size)
	_ = w.WriteMsg(answer)
}

func (n *names) answer(request *dns.Msg) *dns.Msg {
	answer := new(dns.Msg)
	switch {
	case request.Opcode != dns.OpcodeQuery:
		return answer.SetRcode(request, dns.RcodeNotImplemented)
	case len(request.Question) != 1:
		return answer.SetRcode(request, dns.RcodeFormatError)
	}
	q := request.Question[0]
	if q.Qclass != dns.ClassINET || !dns.IsSubDomain(n.zone, q.Name) {
		return answer.SetRcode(request, dns.RcodeRefused)
	}
	answer.SetReply(request)
	answer.Authoritative = true
	if dns.CanonicalName(q.Name) == n.zone {
		if q.Qtype == dns.TypeSOA {
			answer.Answer = []dns.RR{n.authority()}
			return answer
		}
	} else if addrs := n.carried.inService(n.account.Resolve(q.Name)); len(addrs) > 0 {
		for _, a := range addrs {
			if rr := record(q, a); rr != nil {
				answer.Answer = append(answer.Answer, rr)
			}
		}
	} else {
		answer.Rcode = dns.RcodeNameError
	}
	if len(answer.Answer) == 0 {
		answer.Ns = []dns.RR{n.authority()}
	}
	return answer
}

// record is the answer to q that says a, nil if q asks for something else.
func record(q dns.Question, a netip.Addr) dns.RR {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	switch {
	case q.Qtype == dns.TypeA && a.Is4():
		return &dns.A{Hdr: header, A: a.AsSlice()}
	case q.Qtype == dns.TypeAAAA && a.Is6():
		return &dns.AAAA{Hdr: header, AAAA: a.AsSlice()}
	}
	return nil
}

// authority tells resolvers for how long they may remember that there is nothing.
func (n *names) authority() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: n.zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "ns." + n.zone, Mbox: "hostmaster." + n.zone,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}
