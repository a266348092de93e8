package loadbalancer

import (
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
)

// A checkpoint that only nodes have put out of date is written when they have
// left the Service alone for about noteIdle, and never later than noteLongest:
// nodes may come and go all day, and each time there are as many checkpoints as
// Services. Until then a restart costs a look at the cloud.
const (
	noteIdle    = 30 * time.Second // and up to twice that, so that not all write together
	noteLongest = 10 * time.Minute
)

// checkpoint returns the edit that notes what was just verified, and with it
// decides when that is written.
func (m *memory) checkpoint(svc *v1.Service, hash string) edit {
	now, last := time.Now(), svc.Annotations[CheckpointAnnotation]
	written := last == m.note
	m.note = hash
	if !m.retargeted || last == "" {
		m.noteSince, m.noteAt = now, now
		return withCheckpoint(hash)
	}
	if written || m.noteSince.IsZero() {
		m.noteSince = now
	}
	m.noteAt = now.Add(noteIdle + rand.N(noteIdle))
	if latest := m.noteSince.Add(noteLongest); latest.Before(m.noteAt) {
		m.noteAt = latest
	}
	at := m.noteAt
	return func(svc *v1.Service) {
		if !time.Now().Before(at) {
			withCheckpoint(hash)(svc)
		}
	}
}

// sooner returns when to look again: after wait, or earlier to write a
// checkpoint.
func (m *memory) sooner(wait time.Duration) time.Duration {
	if note := time.Until(m.noteAt); note > 0 && (wait == 0 || note < wait) {
		return note
	}
	return wait
}
