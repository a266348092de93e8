package plan

import (
	"context"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Want returns lb.Hash of what s shall have, by which the caller can tell that a
// change of its nodes changes nothing for it. It makes no call for s alone: what
// Desired must know of the account comes from the provider's cache.
func (e *Engine) Want(ctx context.Context, s lb.Service) (hash string, err error) {
	desired, err := e.provider.Desired(ctx, s)
	if err != nil {
		return "", err
	}
	return lb.Hash(desired.Resources), nil
}

// withoutTargets reports whether traffic for s has nowhere to go: its target
// sets, which are the fields with a brake, are to be empty. Where there are none,
// what the nodes are by themselves decides.
func withoutTargets(s lb.Service, desired []lb.Resource) bool {
	sets := false
	for _, r := range desired {
		if r.Brake == "" {
			continue
		}
		if len(r.Fields[r.Brake]) > 0 {
			return false
		}
		sets = true
	}
	if sets {
		return true
	}
	for _, t := range s.Targets {
		if t.State == lb.TargetActive {
			return false
		}
	}
	return true
}
