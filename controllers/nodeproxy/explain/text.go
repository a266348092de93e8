package explain

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

// mostLines bounds each list that may be long: clients and connections.
const mostLines = 20

// text is an answer on its way to people: a title and, below each other, pairs
// of a word and what is to say about it.
type text struct {
	b strings.Builder
}

func (t *text) say(word, format string, args ...any) {
	fmt.Fprintf(&t.b, "  %-13s %s\n", word, fmt.Sprintf(format, args...))
}

func (t *text) more(format string, args ...any) { t.say("", format, args...) }

// Write writes the answer for people.
func (a Answer) Write(w io.Writer) error {
	var t text
	fmt.Fprintf(&t.b, "%v", a.Frontend)
	if a.From.IsValid() {
		fmt.Fprintf(&t.b, " from %v", a.From)
	}
	t.b.WriteString("\n")
	switch k := a.Kernel; {
	case k.Table == "":
		t.say("table", "there is none: node-proxy has not programmed this node")
	case k.Target == "":
		t.table(k)
		a.stranger(&t)
	default:
		t.table(k)
		t.say("Service", "%s", orUnknown(k.Service))
		t.say("policy", "%s", a.policy())
		a.endpoints(&t)
		a.sources(&t)
		a.affinity(&t)
		a.quarantine(&t)
	}
	a.connections(&t)
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (t *text) table(k nft.Inspection) {
	owned := "any program may change it"
	if k.Owned {
		owned = "owned by a running program"
	}
	t.say("table", "%s (%s); %s", nft.TableName, k.Table, owned)
}

func orUnknown(name string) string {
	if name == "" {
		return "unknown: the table was written by a version that did not say"
	}
	return name
}

// stranger explains a destination that is no frontend.
func (a Answer) stranger(t *text) {
	switch k := a.Kernel; {
	case k.ClusterIP:
		t.say("verdict", "refused: the address is a Service's, but has no such port; unless it is an address of this node too")
	case k.InServiceCIDR:
		t.say("verdict", "dropped: no Service has this ClusterIP; unless it is an address of this node too")
	default:
		t.say("verdict", "none: no Service is reached here, the packet goes on as any other")
	}
	word := "ports here"
	for _, f := range slices.SortedFunc(maps.Keys(a.Kernel.Neighbours), compare) {
		t.say(word, "%v, Service %s", f, orUnknown(a.Kernel.Neighbours[f]))
		word = ""
	}
	for i, r := range a.Refused {
		if i == mostLines {
			t.more("… and %d more", len(a.Refused)-i)
			break
		}
		t.say("quarantine", "the kernel refuses Service %s, which may want it: %s", r.Service, r.Reason)
	}
}

func compare(a, b nft.Frontend) int {
	return strings.Compare(fmt.Sprintf("%05d%s", a.Port, a), fmt.Sprintf("%05d%s", b.Port, b))
}

func (a Answer) policy() string {
	k := a.Kernel
	switch {
	case k.Refused:
		return "refused: there is no endpoint (chain " + k.Target + ")"
	case k.Target == "drop":
		return "dropped: internalTrafficPolicy is Local and there is no endpoint on this node"
	}
	return map[nft.Policy]string{
		nft.Internal:      "internal: any endpoint; a source that is no Pod is masqueraded",
		nft.InternalLocal: "internal, Local: endpoints of this node; a source that is no Pod is masqueraded",
		nft.External:      "external: any endpoint; the source is masqueraded",
		nft.ExternalLocal: "external, Local: endpoints of this node, the source is kept; from Pods and the node itself any endpoint",
		nft.Direct:        "direct: any endpoint, the source is kept",
	}[k.Policy] + " (chain " + k.Target + ")"
}

func (a Answer) endpoints(t *text) {
	for _, local := range []bool{false, true} {
		word := "endpoints"
		if local {
			word = "local ones"
		}
		pool := slices.DeleteFunc(slices.Clone(a.Kernel.Slots), func(s nft.Slot) bool { return s.Local != local })
		if len(pool) == 0 {
			continue
		}
		drawn, used := 0, 0
		for _, s := range pool {
			if !s.Spare && !s.Retired {
				drawn++
				if s.Endpoint.IsValid() {
					used++
				}
			}
		}
		how := "at random"
		if a.Kernel.Affinity > 0 {
			how = "by the client's address"
		}
		t.say(word, "%d in %d slots, of which one is drawn %s", used, drawn, how)
		for _, s := range pool {
			itself := ""
			if s.Endpoint.IsValid() && s.Endpoint.Addr() == a.From {
				itself = ", the source itself, which is masqueraded then"
			}
			t.more("%s%s", slot(s), itself)
		}
	}
	if k := a.Kernel; k.Policy == nft.ExternalLocal && !k.Refused && !slices.ContainsFunc(k.Slots, func(s nft.Slot) bool { return s.Local }) {
		t.say("local ones", "none: packets that are not from Pods or the node are dropped")
	}
}

func slot(s nft.Slot) string {
	out := fmt.Sprintf("slot %d", s.Number)
	if s.Spare {
		out = "spare"
	}
	if !s.Endpoint.IsValid() {
		return out + ": empty, another is drawn"
	}
	out += ": " + s.Endpoint.String()
	if s.OnNode {
		out += ", on this node"
	}
	if s.Retired {
		out += ", for clients that were given it only"
	}
	return out
}

func (a Answer) sources(t *text) {
	k := a.Kernel
	if k.Ranged {
		t.say("sources", "only %s; others are dropped", join(k.Sources))
		if a.From.IsValid() && !within(k.Sources, a.From) {
			t.more("%v is not among them: DROPPED", a.From)
		}
	}
	if !a.From.IsValid() || k.Refused || k.Target == "drop" {
		return
	}
	isPod := "no Pod's address"
	if within(k.Pods, a.From) {
		isPod = "a Pod's address"
	}
	if len(k.Pods) > 0 {
		t.say("source", "%v is %s (Pods are in %s)", a.From, isPod, join(k.Pods))
	}
}

func join(prefixes []netip.Prefix) string {
	var out []string
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (a Answer) affinity(t *text) {
	k := a.Kernel
	if k.Affinity == 0 {
		t.say("affinity", "none")
		return
	}
	t.say("affinity", "a client keeps its endpoint until it was away for %v; %d remembered", time.Duration(k.Affinity)*time.Second, len(k.Clients))
	for i, c := range k.Clients {
		if i == mostLines {
			t.more("… and %d more; --from shows one", len(k.Clients)-i)
			break
		}
		s := nft.Slot{Number: c.Slot, Local: c.Local, Spare: c.Spare}
		for _, known := range k.Slots {
			if known.Number == c.Slot && known.Local == c.Local {
				s = known
			}
		}
		t.more("%v has %s, forgotten in %v", c.Source, slot(s), c.Expires.Round(time.Second))
	}
}

func (a Answer) quarantine(t *text) {
	switch {
	case a.RefusedErr != nil:
		t.say("quarantine", "unknown: the program does not answer (%v)", a.RefusedErr)
	case len(a.Refused) == 0:
		t.say("quarantine", "no: the kernel has what the Service wants")
	default:
		r := a.Refused[0]
		t.say("quarantine", "YES: the kernel refused the Service's latest change, the above is older; tried again in %v: %s",
			r.RetryAt.Sub(a.At).Round(time.Second), r.Reason)
	}
}

func (a Answer) connections(t *text) {
	if a.FlowsErr != nil {
		t.say("connections", "unknown: %v", a.FlowsErr)
		return
	}
	t.say("connections", "%d tracked", len(a.Flows))
	for i, f := range a.Flows {
		if i == mostLines {
			t.more("… and %d more; --from shows one client's", len(a.Flows)-i)
			break
		}
		to := fmt.Sprintf("to %v", f.Endpoint)
		if f.Endpoint == netip.AddrPortFrom(a.Frontend.Addr, a.Frontend.Port) {
			to = "not translated"
		}
		if f.Seen.Addr() != f.Client.Addr() {
			to += fmt.Sprintf(", which sees %v", f.Seen)
		}
		state := f.State
		if state != "" {
			state += ", "
		}
		t.more("%v %s; %sforgotten in %v", f.Client, to, state, f.Expires)
	}
}
