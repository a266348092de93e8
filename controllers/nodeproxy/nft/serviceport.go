package nft

import "hash/fnv"

// servicePort is one of the ports of a Service. Those with affinity have a
// number, in the kernel, by which clients are remembered at all of its frontends.
type servicePort struct {
	service  string
	protocol Protocol
	port     uint16
}

// portUse is who has a number.
type portUse struct {
	port  servicePort
	users int // frontends
}

// maxPort bounds the numbers: above is the bit that tells the pools apart.
const maxPort = localSlot - 1

// number returns the number a Service port has or, if it has none, one that
// nobody has. It follows from the name where it can: a Service that comes back
// finds its clients, and a restart its numbers.
func (s *state) number(p servicePort) uint32 {
	if n, ok := s.ports[p]; ok {
		return n
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(p.service)) // returns no error
	_, _ = h.Write([]byte{byte(p.protocol), byte(p.port >> 8), byte(p.port)})
	n := h.Sum32() % maxPort
	for {
		use, taken := s.numbers[n+1]
		if !taken || use.port == (servicePort{service: comment(p.service), protocol: p.protocol}) {
			return n + 1
		}
		n = (n + 1) % maxPort
	}
}

// found notes that an earlier run gave a frontend of a Service a number. Which of
// its ports that was for is not known; nobody else may have it meanwhile.
func (s *state) found(number uint32, service string, protocol Protocol) {
	s.numbers[number] = portUse{servicePort{service: service, protocol: protocol}, s.numbers[number].users + 1}
}

// port writes which Service port a frontend belongs to, 0 for none that matters.
func (tx *transaction) port(name string, f Frontend, p servicePort, old, next uint32) {
	if old == next {
		return
	}
	if old != 0 {
		tx.remove(name, mapServicePorts, appendFrontend(tx.key[:0], f))
		use := tx.state.numbers[old]
		use.users--
		put(tx, tx.state.numbers, old, use, use.users > 0)
		if use.users == 0 && tx.state.ports[use.port] == old {
			put(tx, tx.state.ports, use.port, 0, false)
		}
	}
	if next != 0 {
		tx.insert(name, mapServicePorts, appendFrontend(tx.key[:0], f), value{data: native32(next)})
		use := tx.state.numbers[next]
		put(tx, tx.state.numbers, next, portUse{p, use.users + 1}, true)
		put(tx, tx.state.ports, p, next, true)
	}
}
