package localstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

const (
	region      = "eu-west-1"
	clusterName = "demo"
	// callTime bounds one call of the emulator.
	callTime = 30 * time.Second
)

// settings are what any client of the emulator is made with. LocalStack takes
// every key; this one stands for its default account.
func settings(client *http.Client) []func(*config.LoadOptions) error {
	return []func(*config.LoadOptions) error{
		config.WithRegion(region), config.WithBaseEndpoint(endpoint), config.WithHTTPClient(client),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("test", "test", "")),
		config.WithSharedConfigFiles(nil), config.WithSharedCredentialsFiles(nil),
	}
}

// operator is who had the account before Fairway: its own clients, which no
// count of calls sees.
type operator struct {
	ec2 *ec2.Client
	elb *elb.Client
}

func newOperator(ctx context.Context) (operator, error) {
	cfg, err := config.LoadDefaultConfig(ctx, settings(&http.Client{Timeout: callTime})...)
	if err != nil {
		return operator{}, err
	}
	return operator{ec2.NewFromConfig(cfg), elb.NewFromConfig(cfg)}, nil
}

// world is a network of its own in the account: three zones with a public and a
// private subnet each, and five nodes in the public ones and in one security
// group.
type world struct {
	operator
	vpc, gateway, table string
	public, private     []string // subnets by zone
	nodeGroup           string
	instances           []string // of nodes 1 to 5
}

// zones are the region's that the world is in.
var zones = []string{region + "a", region + "b", region + "c"}

// tagged puts tags on what is being made.
func tagged(kind ec2types.ResourceType, keysAndValues ...string) []ec2types.TagSpecification {
	spec := ec2types.TagSpecification{ResourceType: kind}
	for i := 0; i < len(keysAndValues); i += 2 {
		spec.Tags = append(spec.Tags, ec2types.Tag{Key: &keysAndValues[i], Value: &keysAndValues[i+1]})
	}
	return []ec2types.TagSpecification{spec}
}

// newWorld makes one. When it cannot, it leaves nothing behind.
func newWorld(ctx context.Context) (*world, error) {
	o, err := newOperator(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := o.elb.DescribeLoadBalancers(ctx, &elb.DescribeLoadBalancersInput{}); err != nil {
		return nil, fmt.Errorf("%s offers no load balancers (LocalStack has them with a licence or with this package's plugin): %w", endpoint, err)
	}
	w := &world{operator: o}
	for _, step := range []func(context.Context) error{w.makeNetwork, w.makeNodes, w.checkCorrected} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("make a network with nodes in the emulator: %w", err), w.remove(ctx))
		}
	}
	return w, nil
}

func (w *world) makeNetwork(ctx context.Context) error {
	vpc, err := w.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16"),
		TagSpecifications: tagged(ec2types.ResourceTypeVpc, "Name", "fairway test")})
	if err != nil {
		return err
	}
	w.vpc = *vpc.Vpc.VpcId
	gateway, err := w.ec2.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
	if err != nil {
		return err
	}
	w.gateway = *gateway.InternetGateway.InternetGatewayId
	if _, err := w.ec2.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: &w.gateway, VpcId: &w.vpc}); err != nil {
		return err
	}
	table, err := w.ec2.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &w.vpc})
	if err != nil {
		return err
	}
	w.table = *table.RouteTable.RouteTableId
	if _, err := w.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: &w.table, GatewayId: &w.gateway, DestinationCidrBlock: aws.String("0.0.0.0/0")}); err != nil {
		return err
	}
	for i, zone := range zones {
		id, err := w.makeSubnet(ctx, zone, 16*i, "kubernetes.io/role/elb")
		if err != nil {
			return err
		}
		w.public = append(w.public, id)
		if _, err := w.ec2.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: &w.table, SubnetId: &id}); err != nil {
			return err
		}
		if id, err = w.makeSubnet(ctx, zone, 128+16*i, "kubernetes.io/role/internal-elb"); err != nil {
			return err
		}
		w.private = append(w.private, id)
	}
	return nil
}

func (w *world) makeSubnet(ctx context.Context, zone string, third int, role string) (string, error) {
	out, err := w.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &w.vpc, AvailabilityZone: &zone,
		CidrBlock:         aws.String(fmt.Sprintf("10.0.%d.0/20", third)),
		TagSpecifications: tagged(ec2types.ResourceTypeSubnet, role, "1")})
	if err != nil {
		return "", err
	}
	return *out.Subnet.SubnetId, nil
}

func (w *world) makeNodes(ctx context.Context) error {
	group, err := w.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{VpcId: &w.vpc,
		GroupName: aws.String("nodes"), Description: aws.String("Kubernetes nodes")})
	if err != nil {
		return err
	}
	w.nodeGroup = *group.GroupId
	if err := w.authorize(ctx, w.nodeGroup, 22, "10.0.0.0/8"); err != nil {
		return err
	}
	images, err := w.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{})
	if err != nil {
		return err
	}
	if len(images.Images) == 0 {
		return errors.New("the emulator knows no image to start an instance from")
	}
	for i := range 5 {
		out, err := w.ec2.RunInstances(ctx, &ec2.RunInstancesInput{MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
			ImageId: images.Images[0].ImageId, InstanceType: ec2types.InstanceTypeT3Micro,
			SubnetId: &w.public[i%len(zones)], SecurityGroupIds: []string{w.nodeGroup}})
		if err != nil {
			return err
		}
		w.instances = append(w.instances, *out.Instances[0].InstanceId)
	}
	return nil
}

// checkCorrected finds out early when the emulator is one without our plugin.
func (w *world) checkCorrected(ctx context.Context) error {
	rule := func(description *string) []ec2types.IpPermission {
		return []ec2types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(1), ToPort: aws.Int32(1),
			UserIdGroupPairs: []ec2types.UserIdGroupPair{{GroupId: &w.nodeGroup, Description: description}}}}
	}
	if _, err := w.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &w.nodeGroup, IpPermissions: rule(aws.String("described"))}); err != nil {
		return err
	}
	if _, err := w.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &w.nodeGroup, IpPermissions: rule(nil)}); err != nil {
		return fmt.Errorf("a rule is not revoked without its description; load the plugin as docs/aws/localstack.md says: %w", err)
	}
	return nil
}

// authorize admits TCP connections to a port from a range of addresses.
func (w *world) authorize(ctx context.Context, group string, port int32, from string) error {
	_, err := w.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &group,
		IpPermissions: []ec2types.IpPermission{tcpRule(port, from)}})
	return err
}

func tcpRule(port int32, from string) ec2types.IpPermission {
	return ec2types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, IpRanges: []ec2types.IpRange{{CidrIp: &from}}}
}

// balancers, targetGroups and securityGroups list what is in the world, whoever
// made it.
func (w *world) balancers(ctx context.Context) ([]elbtypes.LoadBalancer, error) {
	var all []elbtypes.LoadBalancer
	for pages := elb.NewDescribeLoadBalancersPaginator(w.elb, &elb.DescribeLoadBalancersInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range page.LoadBalancers {
			if aws.ToString(b.VpcId) == w.vpc {
				all = append(all, b)
			}
		}
	}
	return all, nil
}

func (w *world) targetGroups(ctx context.Context) ([]elbtypes.TargetGroup, error) {
	var all []elbtypes.TargetGroup
	for pages := elb.NewDescribeTargetGroupsPaginator(w.elb, &elb.DescribeTargetGroupsInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, g := range page.TargetGroups {
			if aws.ToString(g.VpcId) == w.vpc {
				all = append(all, g)
			}
		}
	}
	return all, nil
}

func (w *world) securityGroups(ctx context.Context) ([]ec2types.SecurityGroup, error) {
	var all []ec2types.SecurityGroup
	pages := ec2.NewDescribeSecurityGroupsPaginator(w.ec2, &ec2.DescribeSecurityGroupsInput{
		Filters: []ec2types.Filter{{Name: aws.String("vpc-id"), Values: []string{w.vpc}}}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, page.SecurityGroups...)
	}
	return all, nil
}

// sweep takes the world back to how newWorld left it.
func (w *world) sweep(ctx context.Context) error {
	var errs []error
	balancers, err := w.balancers(ctx)
	errs = append(errs, err)
	for _, b := range balancers {
		_, err := w.elb.DeleteLoadBalancer(ctx, &elb.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn})
		errs = append(errs, err)
	}
	targets, err := w.targetGroups(ctx)
	errs = append(errs, err)
	for _, g := range targets {
		_, err := w.elb.DeleteTargetGroup(ctx, &elb.DeleteTargetGroupInput{TargetGroupArn: g.TargetGroupArn})
		errs = append(errs, err)
	}
	groups, err := w.securityGroups(ctx)
	errs = append(errs, err)
	for _, g := range groups {
		if len(g.IpPermissions) > 0 && aws.ToString(g.GroupName) != "default" {
			_, err := w.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: g.IpPermissions})
			errs = append(errs, err)
		}
	}
	for _, g := range groups {
		switch {
		case aws.ToString(g.GroupName) == "default":
		case aws.ToString(g.GroupId) == w.nodeGroup:
			errs = append(errs, w.authorize(ctx, w.nodeGroup, 22, "10.0.0.0/8"))
		default:
			_, err := w.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: g.GroupId})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove takes the world away, as far as it was made.
func (w *world) remove(ctx context.Context) error {
	if w.vpc == "" {
		return nil
	}
	errs := []error{w.sweep(ctx)}
	if len(w.instances) > 0 {
		_, err := w.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: w.instances})
		errs = append(errs, err)
	}
	if w.nodeGroup != "" {
		_, err := w.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &w.nodeGroup})
		errs = append(errs, err)
	}
	for _, id := range append(w.public, w.private...) {
		_, err := w.ec2.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &id})
		errs = append(errs, err)
	}
	if w.table != "" {
		errs = append(errs, w.removeTable(ctx))
	}
	if w.gateway != "" {
		_, err := w.ec2.DetachInternetGateway(ctx, &ec2.DetachInternetGatewayInput{InternetGatewayId: &w.gateway, VpcId: &w.vpc})
		errs = append(errs, err)
		_, err = w.ec2.DeleteInternetGateway(ctx, &ec2.DeleteInternetGatewayInput{InternetGatewayId: &w.gateway})
		errs = append(errs, err)
	}
	_, err := w.ec2.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: &w.vpc})
	return errors.Join(append(errs, err)...)
}

func (w *world) removeTable(ctx context.Context) error {
	out, err := w.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{w.table}})
	if err != nil {
		return err
	}
	for _, t := range out.RouteTables {
		for _, a := range t.Associations {
			if _, err := w.ec2.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: a.RouteTableAssociationId}); err != nil {
				return err
			}
		}
	}
	_, err = w.ec2.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: &w.table})
	return err
}

// providerID is what Kubernetes calls the instance of node n, from 1.
func (w *world) providerID(n int) string {
	return fmt.Sprintf("aws:///%s/%s", zones[(n-1)%len(zones)], w.instances[n-1])
}
