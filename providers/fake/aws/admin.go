package aws

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/fairway-lb/fairway/providers/fake"
)

// Admin returns the handler through which people and tests outside of the process
// look into the account and change what a client of AWS cannot:
//
//	GET    /_fake/calls                the call log; ?format=counts or ?format=text
//	DELETE /_fake/calls                forgets it
//	GET    /_fake/leftovers            what clients made and have not removed
//	GET    /_fake/violations           requests no correct client makes
//	GET    /_fake/dataplane            what the data path is asked to carry
//	POST   /_fake/instances            starts a machine (Instance)
//	PUT    /_fake/instances/{id}       {"state": "running", "stopped", "terminated", …}
//	DELETE /_fake/instances/{id}       makes a machine disappear
//	PUT    /_fake/faults               replaces the planned faults (list of fake.Fault)
//
// Everything is JSON but ?format=text; an unknown field is an error. It is for
// trusted callers only: there is no authentication.
func (a *Account) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_fake/calls", a.adminCalls)
	mux.HandleFunc("DELETE /_fake/calls", func(w http.ResponseWriter, _ *http.Request) {
		a.calls.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /_fake/leftovers", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Leftovers()) })
	mux.HandleFunc("GET /_fake/violations", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, append([]string{}, a.Violations()...))
	})
	mux.HandleFunc("GET /_fake/dataplane", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Dataplane()) })
	mux.HandleFunc("POST /_fake/instances", adminChange(func(_ *http.Request, i Instance) error { return a.AddInstance(i) }))
	mux.HandleFunc("PUT /_fake/instances/{id}", adminChange(func(r *http.Request, change struct {
		State InstanceState `json:"state"`
	}) error {
		return a.SetInstanceState(r.PathValue("id"), change.State)
	}))
	mux.HandleFunc("DELETE /_fake/instances/{id}", func(w http.ResponseWriter, r *http.Request) {
		adminDone(w, a.RemoveInstance(r.PathValue("id")))
	})
	mux.HandleFunc("PUT /_fake/faults", adminChange(func(_ *http.Request, faults []fake.Fault) error { return a.faults.Set(faults) }))
	return mux
}

func (a *Account) adminCalls(w http.ResponseWriter, r *http.Request) {
	switch format := r.URL.Query().Get("format"); format {
	case "":
		writeJSON(w, append([]fake.Call{}, a.calls.Calls()...))
	case "counts":
		writeJSON(w, a.calls.Counts())
	case "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		for _, c := range a.calls.Calls() {
			fmt.Fprintln(w, c)
		}
		fmt.Fprintf(w, "\n%s", a.calls.Counts())
	default:
		http.Error(w, fmt.Sprintf("format %q is none of counts, text", format), http.StatusBadRequest)
	}
}

// adminChange decodes a body strictly, applies it and answers.
func adminChange[T any](apply func(*http.Request, T) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body T
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&body); err != nil {
			http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
			return
		}
		adminDone(w, apply(r, body))
	}
}

func adminDone(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}
