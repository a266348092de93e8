package reference

import (
	"context"
	"slices"

	"github.com/fairway-lb/fairway/providers/lb"
)

var _ lb.Rechecker = (*Provider)(nil)

// StillOwned implements lb.Rechecker. In this cloud a look at all that a Service
// has costs three calls, which leaves nothing to save.
func (p *Provider) StillOwned(ctx context.Context, resources []lb.Resource) (bool, error) {
	seen, err := p.Observe(ctx, resources[0].Owners[0])
	if err != nil {
		return false, err
	}
	moved := slices.ContainsFunc(resources, func(r lb.Resource) bool {
		return !slices.ContainsFunc(seen, func(now lb.Resource) bool {
			return now.Ref == r.Ref && now.ID == r.ID && slices.Equal(now.Owners, r.Owners)
		})
	})
	return !moved, nil
}

// Residue implements lb.Rechecker.
func (p *Provider) Residue(ctx context.Context, o lb.Owner, _ []lb.Resource) ([]lb.Resource, error) {
	return p.Observe(ctx, o)
}
