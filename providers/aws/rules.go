package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// rule is one ingress rule: a protocol with its ports from one source. Its text
// form is what plans show and fields hold:
//
//	tcp/80 from 0.0.0.0/0
//	udp/30000-32767 from security-group backend@vpc-0a1b
//	icmp/3-4 from 0.0.0.0/0      (type 3, code 4)
//	tcp/443 from pl-0123
//	all from sg-0123
type rule struct {
	protocol string // tcp, udp, icmp, icmpv6, all or a protocol number
	// from and to are ports, or type and code for icmp and icmpv6; -1 and -1
	// mean every one.
	from, to int32
	// source is a CIDR, a prefix list's id, a security group's id or, in
	// fields, the reference of one.
	source string
}

func (r rule) String() string {
	ports := ""
	switch {
	case r.from == -1 && r.to == -1 || r.protocol == "all":
	case r.from == r.to:
		ports = fmt.Sprintf("/%d", r.from)
	default:
		ports = fmt.Sprintf("/%d-%d", r.from, r.to)
	}
	return r.protocol + ports + " from " + r.source
}

// parseRule reads what String wrote.
func parseRule(text string) (rule, error) {
	what, source, ok := strings.Cut(text, " from ")
	protocol, ports, some := strings.Cut(what, "/")
	r := rule{protocol: protocol, from: -1, to: -1, source: source}
	if !ok || protocol == "" || source == "" {
		return rule{}, fmt.Errorf("%q is not a rule", text)
	}
	if !some {
		return r, nil
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseInt(first, 10, 32)
	to, err2 := strconv.ParseInt(last, 10, 32)
	if err1 != nil || err2 != nil {
		return rule{}, fmt.Errorf("%q is not a rule", text)
	}
	r.from, r.to = int32(from), int32(to)
	return r, nil
}

// rulesIn returns the rules of a group that keep accepts by their description;
// a security group as a source is named as name says.
func rulesIn(group ec2types.SecurityGroup, keep func(description string) bool, name func(id string) string) []string {
	var found []string
	for _, p := range group.IpPermissions {
		r := rule{protocol: aws.ToString(p.IpProtocol), from: -1, to: -1}
		if r.protocol == "-1" {
			r.protocol = "all"
		}
		if p.FromPort != nil && p.ToPort != nil {
			r.from, r.to = *p.FromPort, *p.ToPort
		}
		add := func(source string, description *string) {
			if keep(aws.ToString(description)) {
				r.source = source
				found = append(found, r.String())
			}
		}
		for _, s := range p.IpRanges {
			add(aws.ToString(s.CidrIp), s.Description)
		}
		for _, s := range p.Ipv6Ranges {
			add(aws.ToString(s.CidrIpv6), s.Description)
		}
		for _, s := range p.PrefixListIds {
			add(aws.ToString(s.PrefixListId), s.Description)
		}
		for _, s := range p.UserIdGroupPairs {
			add(name(aws.ToString(s.GroupId)), s.Description)
		}
	}
	return found
}

// permissions turns rules into what EC2 takes, sources of one protocol and port
// range together, in order; groups as sources are given by id. An empty
// description is left out.
func permissions(texts []string, description string) ([]ec2types.IpPermission, error) {
	var made []ec2types.IpPermission
	for _, text := range slices.Sorted(slices.Values(texts)) {
		r, err := parseRule(text)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(made, r.fits)
		if i < 0 {
			i = len(made)
			made = append(made, r.permission())
		}
		r.addSource(&made[i], description)
	}
	return made, nil
}

func (r rule) permission() ec2types.IpPermission {
	if r.protocol == "all" {
		return ec2types.IpPermission{IpProtocol: aws.String("-1")}
	}
	return ec2types.IpPermission{IpProtocol: aws.String(r.protocol), FromPort: aws.Int32(r.from), ToPort: aws.Int32(r.to)}
}

func (r rule) fits(p ec2types.IpPermission) bool {
	q := r.permission()
	return *p.IpProtocol == *q.IpProtocol && aws.ToInt32(p.FromPort) == aws.ToInt32(q.FromPort) && aws.ToInt32(p.ToPort) == aws.ToInt32(q.ToPort)
}

func (r rule) addSource(p *ec2types.IpPermission, text string) {
	var description *string
	if text != "" {
		description = &text
	}
	prefix, err := netip.ParsePrefix(r.source)
	switch {
	case err == nil && prefix.Addr().Is4():
		p.IpRanges = append(p.IpRanges, ec2types.IpRange{CidrIp: &r.source, Description: description})
	case err == nil:
		p.Ipv6Ranges = append(p.Ipv6Ranges, ec2types.Ipv6Range{CidrIpv6: &r.source, Description: description})
	case prefixListID.MatchString(r.source):
		p.PrefixListIds = append(p.PrefixListIds, ec2types.PrefixListId{PrefixListId: &r.source, Description: description})
	default:
		p.UserIdGroupPairs = append(p.UserIdGroupPairs, ec2types.UserIdGroupPair{GroupId: &r.source, Description: description})
	}
}
