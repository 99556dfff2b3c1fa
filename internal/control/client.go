// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrNotRunning: nobody listens at the socket.
var ErrNotRunning = errors.New("no gateway runs")

// Refused is the error of a request that the gateway refused.
type Refused struct {
	// Status is that of HTTP.
	Status int
	// Errors is one sentence for each thing that is wrong.
	Errors []string
}

// Error is a line for each thing that is wrong.
func (r *Refused) Error() string { return strings.Join(r.Errors, "\n") }

// Client talks to one gateway. Its methods may be called by several goroutines.
type Client struct{ http http.Client }

// NewClient is for the socket at path.
func NewClient(path string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return Dial(ctx, path) },
	}}}
}

// Close ends connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Dial connects with a socket at path, and says it in words if there is none.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s is for root alone: %w", path, fs.ErrPermission)
	case errors.Is(err, fs.ErrNotExist), isRefused(err):
		return nil, fmt.Errorf("%w at %s", ErrNotRunning, path)
	default:
		return nil, err
	}
}

// Find is the socket of the only gateway that runs, of those whose sockets are in dir.
func Find(ctx context.Context, dir string) (string, error) {
	all, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%s is for root alone: %w", dir, fs.ErrPermission)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	var live []string
	for _, file := range all {
		path := filepath.Join(dir, file.Name())
		if filepath.Ext(path) != ".sock" {
			continue
		}
		conn, err := Dial(ctx, path)
		if errors.Is(err, ErrNotRunning) { // killed, and its socket left behind
			continue
		}
		if err != nil {
			return "", err
		}
		_ = conn.Close() // that it was opened is all
		live = append(live, path)
	}
	switch len(live) {
	case 0:
		return "", fmt.Errorf("%w: nobody listens in %s; name its socket with --socket if it has another", ErrNotRunning, dir)
	case 1:
		return live[0], nil
	default:
		return "", fmt.Errorf("several gateways run: name the socket of one with --socket, %s", strings.Join(live, " or "))
	}
}

// do sends a request; the caller closes the body of the answer.
func (c *Client) do(ctx context.Context, method, path string, q url.Values) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "gateway", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if outer := (*url.Error)(nil); errors.As(err, &outer) { // its text is about HTTP
			err = outer.Err
		}
		return nil, err
	}
	if res.StatusCode < 400 {
		return res, nil
	}
	defer res.Body.Close()
	var f Failure
	body := json.NewDecoder(io.LimitReader(res.Body, 1<<20))
	if err := body.Decode(&f); err != nil || len(f.Errors) == 0 {
		f.Errors = []string{"the gateway answers " + res.Status}
	}
	return nil, &Refused{res.StatusCode, f.Errors}
}

// one fetches an answer that is one object.
func one[T any](ctx context.Context, c *Client, method, path string, q url.Values) (v T, err error) {
	res, err := c.do(ctx, method, path, q)
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	return v, json.NewDecoder(res.Body).Decode(&v)
}

// each calls f with each line of an answer.
func each[T any](ctx context.Context, c *Client, path string, q url.Values, f func(*T) error) error {
	res, err := c.do(ctx, http.MethodGet, path, q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for d := json.NewDecoder(res.Body); ; {
		var v T
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the gateway broke off: %w", err)
		}
		if err := f(&v); err != nil {
			return err
		}
	}
}

// Stats asks for the counters.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	return one[Stats](ctx, c, http.MethodGet, "/v1/stats", nil)
}

// Status asks whether packets can pass.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return one[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Ports asks how full the external addresses are, and for the top fullest destinations.
func (c *Client) Ports(ctx context.Context, top int) (Ports, error) {
	return one[Ports](ctx, c, http.MethodGet, "/v1/ports", url.Values{"top": {strconv.Itoa(top)}})
}

// Reload has the configuration read again; dry only says what that would do.
func (c *Client) Reload(ctx context.Context, dry bool) (Reload, error) {
	return one[Reload](ctx, c, http.MethodPost, "/v1/reload", url.Values{"dry_run": {strconv.FormatBool(dry)}})
}

// Explain asks about the packet that the parameters describe; see ParseQuestion.
func (c *Client) Explain(ctx context.Context, question url.Values) (Explanation, error) {
	return one[Explanation](ctx, c, http.MethodGet, "/v1/explain", question)
}

// Flows calls f with each session that the parameters choose; see ParseFilter.
func (c *Client) Flows(ctx context.Context, filter url.Values, f func(*Flow) error) error {
	return each(ctx, c, "/v1/flows", filter, f)
}
