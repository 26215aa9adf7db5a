package main

import (
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// maxBody is the largest body of a request, in bytes.
const maxBody = 16 << 10

// newAPI returns the API. It sends to wake, which has room for one, when an expense is new.
func newAPI(t expenses, wake chan<- struct{}) http.Handler {
	api := http.NewServeMux()
	api.HandleFunc("POST /expenses", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Description string      `json:"description"`
			Amount      json.Number `json:"amount"`
			Account     string      `json:"account"`
		}
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			http.Error(w, "want a JSON object with description, amount and account", http.StatusBadRequest)
			return
		}
		e, err := t.create(r.Context(), in.Description, in.Amount.String(), in.Account)
		if err == nil {
			select {
			case wake <- struct{}{}:
			default: // it is awake
			}
			w.Header().Set("Location", "/expenses/"+e.ID)
		}
		answer(w, http.StatusCreated, e, err)
	})
	api.HandleFunc("GET /expenses/{id}", func(w http.ResponseWriter, r *http.Request) {
		e, err := t.get(r.Context(), r.PathValue("id"))
		answer(w, http.StatusOK, e, err)
	})
	api.HandleFunc("GET /expenses", func(w http.ResponseWriter, r *http.Request) {
		all, err := t.newest(r.Context())
		answer(w, http.StatusOK, all, err)
	})
	return api
}

// answer writes v as JSON, or the status of an error.
func answer(w http.ResponseWriter, status int, v any, err error) {
	refused, byDatabase := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		http.Error(w, "no such expense", http.StatusNotFound)
		return
	case byDatabase && (strings.HasPrefix(refused.Code, "22") || strings.HasPrefix(refused.Code, "23")): // it is the data
		http.Error(w, "description and account must have text, and amount must be above 0 with at most two decimals", http.StatusBadRequest)
		return
	case err != nil:
		log.Printf("request: %v", err)
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Printf("answer: %v", err)
	}
}
