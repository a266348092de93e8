package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// Identity says which Pod answers.
type Identity struct {
	Pod       string     `json:"pod"`
	Namespace string     `json:"namespace"`
	Node      string     `json:"node"`
	PodIP     netip.Addr `json:"podIP"`
}

// Answer is what a Pod says, as one line of JSON: to GET / over HTTP on each of
// its TCP ports, and to any datagram on each of its UDP ports.
type Answer struct {
	Identity
	// Client is the address that the Pod saw as the sender's.
	Client netip.AddrPort `json:"client"`
	// Local is the address of the Pod that was spoken to.
	Local netip.AddrPort `json:"local"`
	// Protocol is "TCP" or "UDP".
	Protocol string `json:"protocol"`
}

// server is what runs in a Pod instead of its containers. Besides / it answers
// on /healthz, and on /readyz with 200 or, after POST /readyz?ready=false, 503.
type server struct {
	identity Identity
	unready  atomic.Bool
	tcp      []*http.Server
	udp      []net.PacketConn
	running  sync.WaitGroup
}

// serve listens on every port that the containers declare.
func serve(ctx context.Context, n *sandbox.NetNS, identity Identity, containers []corev1.Container) (*server, error) {
	s := &server{identity: identity}
	for _, container := range containers {
		for _, port := range container.Ports {
			address := net.JoinHostPort(identity.PodIP.String(), strconv.Itoa(int(port.ContainerPort)))
			if err := s.listen(ctx, n, port.Protocol, address); err != nil {
				s.close()
				return nil, fmt.Errorf("container %s, port %d/%s: %w", container.Name, port.ContainerPort, port.Protocol, err)
			}
		}
	}
	return s, nil
}

func (s *server) listen(ctx context.Context, n *sandbox.NetNS, protocol corev1.Protocol, address string) error {
	switch protocol {
	case corev1.ProtocolTCP, "":
		listener, err := n.Listen(ctx, "tcp", address)
		if err != nil {
			return err
		}
		h := &http.Server{
			Handler:           s.handler(),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       30 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
		}
		s.tcp = append(s.tcp, h)
		s.running.Go(func() { _ = h.Serve(listener) })
	case corev1.ProtocolUDP:
		conn, err := n.ListenPacket(ctx, "udp", address)
		if err != nil {
			return err
		}
		s.udp = append(s.udp, conn)
		s.running.Go(func() { s.answerDatagrams(conn) })
	default:
		return errors.New("this test node serves only TCP and UDP")
	}
	return nil
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		answer, err := s.answer(r.RemoteAddr, local, "TCP")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.unready.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("POST /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready, err := strconv.ParseBool(r.URL.Query().Get("ready"))
		if err != nil {
			http.Error(w, "want /readyz?ready=true or /readyz?ready=false", http.StatusBadRequest)
			return
		}
		s.unready.Store(!ready)
		fmt.Fprintln(w, "ok")
	})
	return mux
}

func (s *server) answer(client string, local net.Addr, protocol string) ([]byte, error) {
	answer := Answer{Identity: s.identity, Protocol: protocol}
	for text, into := range map[string]*netip.AddrPort{client: &answer.Client, fmt.Sprint(local): &answer.Local} {
		address, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, err
		}
		*into = netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
	}
	line, err := json.Marshal(answer)
	return append(line, '\n'), err
}

func (s *server) answerDatagrams(conn net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		_, client, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier answer
		}
		if answer, err := s.answer(client.String(), conn.LocalAddr(), "UDP"); err == nil {
			_, _ = conn.WriteTo(answer, client)
		}
	}
}

// drain goes on serving, but asks HTTP clients to open a new connection for
// their next request.
func (s *server) drain() {
	for _, h := range s.tcp {
		h.SetKeepAlivesEnabled(false)
	}
}

// shutdown takes no new connections and waits for the requests under way until
// the context ends. UDP is answered meanwhile.
func (s *server) shutdown(ctx context.Context) {
	var all sync.WaitGroup
	for _, h := range s.tcp {
		all.Go(func() { _ = h.Shutdown(ctx) })
	}
	all.Wait()
}

// close ends everything at once.
func (s *server) close() {
	for _, h := range s.tcp {
		_ = h.Close()
	}
	for _, conn := range s.udp {
		_ = conn.Close()
	}
	s.running.Wait()
}
