package fake

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// IDs makes identifiers that look random and are the same in every run of the
// same simulation. It is not safe for concurrent use.
type IDs struct {
	seed string
	n    map[string]uint64
}

// NewIDs returns a generator; generators with the same seed give the same
// sequences.
func NewIDs(seed string) *IDs { return &IDs{seed: seed, n: map[string]uint64{}} }

// Hex returns the next identifier of a kind, as lower-case hexadecimal digits (64
// at most). The kinds' sequences do not influence one another.
func (g *IDs) Hex(kind string, digits int) string {
	g.n[kind]++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", g.seed, kind, g.n[kind]))
	return hex.EncodeToString(sum[:])[:digits]
}
