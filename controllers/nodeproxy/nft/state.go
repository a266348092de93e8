package nft

import (
	"net/netip"
	"slices"
)

// state is what the kernel has, as far as we wrote or found it.
type state struct {
	services map[string]*Service // as wanted when last programmed
	// frontends has those in the kernel. Two Services may share a load
	// balancer's address, or one claim another's: the second one waits.
	frontends map[Frontend]frontend
	waiting   map[Frontend][]string
	// incumbents are the Services that had frontends, others wanting them too,
	// before the table was lost.
	incumbents map[Frontend]string
	// members counts the Services that need an element of a set of addresses.
	// Those found in the kernel begin with 0.
	members map[member]int
	ranges  map[string][]netip.Prefix // of interval sets: disjoint, sorted
	chains  map[string]chain
	// ports are the numbers of Service ports with affinity, numbers whose they are.
	ports   map[servicePort]uint32
	numbers map[uint32]portUse
	hooked  bool // the base chains are there
}

// frontend is what the kernel has for one frontend.
type frontend struct {
	owner          string // the Service
	found          bool   // in the kernel by an earlier run; nobody claimed it yet
	backends       Backends
	target         string
	cluster, local pool
	port           uint32         // the number of the Service port, 0 without affinity
	sources        []netip.Prefix // disjoint, sorted
}

// member is an element of a set of addresses.
type member struct {
	set  string
	addr netip.Addr
}

type chain struct {
	users int // frontends and chains that go to it
	needs []string
}

func newState() state {
	return state{
		services:  make(map[string]*Service),
		frontends: make(map[Frontend]frontend),
		waiting:   make(map[Frontend][]string),
		members:   make(map[member]int),
		ranges:    make(map[string][]netip.Prefix),
		chains:    make(map[string]chain),
		ports:     make(map[servicePort]uint32),
		numbers:   make(map[uint32]portUse),
	}
}

// objects returns the number of chains, sets and counters in the table.
func (s *state) objects(l *layout) int {
	n := l.fixedObjects + len(s.chains)
	if s.hooked {
		n += l.hookObjects
	}
	return n
}

// unusedChains returns the chains that nothing goes to, those that go to others
// before these.
func (s *state) unusedChains() []string {
	users := make(map[string]int)
	var queue []string
	for name, c := range s.chains {
		users[name] = c.users
		if c.users == 0 {
			queue = append(queue, name)
		}
	}
	slices.Sort(queue)
	for i := 0; i < len(queue); i++ {
		for _, need := range s.chains[queue[i]].needs {
			if users[need]--; users[need] == 0 {
				queue = append(queue, need)
			}
		}
	}
	return queue
}

func (s *state) forgetChains(names []string) {
	for _, name := range names {
		for _, need := range s.chains[name].needs {
			c := s.chains[need]
			c.users--
			s.chains[need] = c
		}
		delete(s.chains, name)
	}
}
