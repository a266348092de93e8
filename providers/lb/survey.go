package lb

import "context"

// Surveyor is implemented by a Provider that can look at everything of a cluster
// at once, by cluster-wide list calls only. It is how many Services are checked
// for the price of a few calls; what such calls do not show stays unknown.
type Surveyor interface {
	// Survey lists what exists. A partial answer is an error.
	Survey(ctx context.Context) (Survey, error)
}

// Survey is what cluster-wide list calls show.
type Survey struct {
	// Kinds are the kinds that were looked for: of these, what is not in
	// Services or Cluster does not exist.
	Kinds []Kind
	// Services lists what bears a Service's mark, also of Services that are no
	// more. The resources have only the fields that list calls show.
	Services map[ServiceRef][]Resource
	// Cluster lists what bears the cluster's mark.
	Cluster []Resource
}
