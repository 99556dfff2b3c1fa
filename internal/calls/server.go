// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/vpc"
)

// The bounds of a server.
const (
	maxBody    = 1 << 20
	answerTime = 10 * time.Second
)

// Handler answers calls about r.
func Handler(r *region.Region, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/{call}", func(w http.ResponseWriter, req *http.Request) {
		response, err := answer(r, req)
		status := http.StatusOK
		if err != nil {
			var f *Failure
			f, status = failure(err)
			if status >= http.StatusInternalServerError {
				log.Error("a call failed", "call", req.PathValue("call"), "error", err)
			}
			response = f
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(response) // the client may be gone
	})
	return mux
}

func answer(r *region.Region, req *http.Request) (any, error) {
	name := req.PathValue("call")
	c := Find(name)
	if c == nil {
		return nil, refuse(InvalidAction, "there is no call %q", name)
	}
	dry := false
	if s := req.URL.Query().Get("dry_run"); s != "" {
		var err error
		if dry, err = strconv.ParseBool(s); err != nil {
			return nil, refuse(vpc.InvalidParameterValue, "dry_run is %q; write true or false", s)
		}
	}
	in := c.New()
	d := json.NewDecoder(io.LimitReader(req.Body, maxBody))
	d.DisallowUnknownFields()
	switch err := d.Decode(in); {
	case errors.Is(err, io.EOF): // no parameters
	case err != nil && strings.Contains(err.Error(), "unknown field"):
		return nil, refuse(UnknownParameter, "%v", err)
	case err != nil:
		return nil, refuse(vpc.InvalidParameterValue, "the parameters are not as the call has them: %v", err)
	}
	return c.Ask(r, in, dry)
}

// Ask makes the call of a region, with parameters that New made; dry says what it would do, and changes nothing.
func (c *Call) Ask(r *region.Region, in any, dry bool) (*Response, error) {
	if c.measure != nil {
		if err := whole(in); err != nil {
			return nil, err
		}
		value, err := c.measure(r, in)
		return &Response{Result: value}, err
	}
	do := func(m *vpc.Model, now time.Time) (any, error) { return c.Do(m, now, in) }
	if c.Reads {
		var value any
		var err error
		r.View(func(m *vpc.Model) { value, err = do(m, time.Time{}) })
		return &Response{Result: value}, err
	}
	run := r.Change
	if dry {
		run = r.DryRun
	}
	result, err := run(do)
	return &Response{Result: result.Value, DryRun: dry, Impact: result.Impact}, err
}

// LabHandler answers where the machines of a lab are; find says for an instance's id, or the internet, where it is, and
// whether it is there and runs.
func LabHandler(find func(name string) (m Machine, exists, runs bool)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /lab/{name}", func(w http.ResponseWriter, req *http.Request) {
		name := req.PathValue("name")
		m, exists, runs := find(name)
		var response any = m
		var err error
		switch {
		case !exists:
			err = refuse(vpc.InstanceNotFound, "there is no instance %q in the lab", name)
		case !runs:
			err = refuse(vpc.IncorrectInstanceState, "%s does not run; start it first", name)
		}
		status := http.StatusOK
		if err != nil {
			response, status = failure(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(response) // the client may be gone
	})
	return mux
}

// failure is what the client is told, and the status of HTTP.
func failure(err error) (*Failure, int) {
	var refused *vpc.Error
	if errors.As(err, &refused) {
		return &Failure{string(refused.Code), refused.Message}, http.StatusBadRequest
	}
	return &Failure{string(InternalError), err.Error()}, http.StatusInternalServerError
}

// Serve has h, a Handler and what the caller has beside it, answer at ln until ctx ends, and lets calls under way come to
// their end.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: answerTime, ReadTimeout: answerTime, WriteTimeout: control.WriteTimeout,
		IdleTimeout: answerTime, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(control.FewClients(ln)) }()
	select {
	case err := <-done:
		return fmt.Errorf("the control socket is no longer served: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
	defer cancel()
	err := srv.Shutdown(last)
	<-done
	return err
}
