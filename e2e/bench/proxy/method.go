package main

// method tells how the figures came about.
const method = `
The contenders take turns on one node, a network namespace, with the same API server and the same objects; who begins changes
from round to round. After each the node's ruleset is emptied, and seen to be empty. Of twenty Services sixteen have a cluster
IP only, three a NodePort, and one is a load balancer with traffic policy Local; beyond 6,000 Services, where the API server's
range ends, no more have NodePorts. A fifth of the Services have 1 endpoint, one in forty has 32, the others 4: on average 4.
One in ten has a backend that answers. Those with a cluster IP only are copied in the API server's store from one that it
made: it counts all addresses in use whenever it gives one away, which would take half an hour for 30,000. Clients and
backends are network namespaces on cables of their own.

- *Start*: from the start of the process until a Pod reaches the last Service and 20 others all over. The bare informer is a
  process of client-go that reads Services and EndpointSlices, on the node and in the same round; the raw netlink loader has
  everything in memory and writes our table once, then changes it, each change a transaction of its own: the floor. What hearing
  of the changes costs by itself, the bare informer shows too.
- *Changes*: 2,000 at 100 a second, each of one endpoint. Processor time includes programs that are run, and two seconds
  afterwards. Among the changes are those that move the backend of the last Service, to and fro, while a Pod connects twice a
  millisecond: the time counts from a watch's word of the change to the first connection there, so the price of the API server
  is not in it. Among 600 more, the backend of a UDP flow moves, of which a packet is sent each millisecond from one port: that
  time counts from the request to the API server.
- *Memory*: the most the process ever had. With the programs it runs: the largest sum seen, looking 20 times a second. What
  the kernel takes for rules is in neither.
- *Connections*: to cluster IPs from a Pod, to NodePorts from a host outside, each to a random one of the Services that answer.
  100,000 one after another, for the times of connect(), in ten volleys that alternate with as many "past it", to the backends
  themselves; then 4 clients side by side for two seconds. Each connection is reset when it is made. The backend's kernel takes
  part, but no program of it. "No proxy" is the same with no rules on the node: no netfilter at all.
- *Restart, upgrade, takeover*: SIGKILL and a new start, of the same, of ours with another layout of its table, of ours in place
  of kube-proxy, with a connection to a cluster IP and one to a NodePort every two milliseconds, until the new one's metric says
  that it has programmed the node, and kube-proxy's rules are gone, and a second longer.

kube-proxy runs with its defaults but for the requests to the API server it may make, which are more. What the API server, the
clients and the backends take comes from the same processors.
`
