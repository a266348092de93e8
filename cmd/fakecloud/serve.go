package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/fairway-lb/fairway/providers/fake/aws"
)

// newServer serves the account's API at /, and below /_fake/ what is not part of
// any cloud. Reading and answering a request are bounded in time; the handlers
// bound what they read.
func newServer(account *aws.Account, carried carriage, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/", account)
	mux.Handle("/_fake/", account.Admin())
	mux.HandleFunc("GET /_fake/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /_fake/flows", carried.flows)
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// flows answers with the connections through the load balancers, as a JSON list of
// datapath.Flow.
func (c carriage) flows(w http.ResponseWriter, _ *http.Request) {
	if c.Datapath == nil {
		http.Error(w, "there is no data path: fakecloud runs with --datapath=off", http.StatusNotFound)
		return
	}
	flows, err := c.Flows()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(flows)
}
