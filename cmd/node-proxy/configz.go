package main

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
)

// configzPath is where Kubernetes' components tell their configuration.
const configzPath = "/configz"

// configz serves the configuration the program runs with, defaults, file and flags
// together, as kube-proxy does its own: JSON, under the name of its API group. There
// is no secret in it, only the names of files that have some.
func configz(c config.Config) http.Handler {
	group, _, _ := strings.Cut(config.APIVersion, "/")
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = json.NewEncoder(w).Encode(map[string]config.Config{group: c}) // the client may be gone
	})
}
