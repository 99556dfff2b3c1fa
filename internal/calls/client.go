// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tidegate/tidegate/internal/control"
)

// Client makes calls of a region that is served at a socket. Its methods may be called by several goroutines.
type Client struct{ http http.Client }

// NewClient is for the socket at path.
func NewClient(path string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := control.Dial(ctx, path)
			if errors.Is(err, control.ErrNotRunning) {
				return nil, fmt.Errorf("no region is served at %s; start one with tidegate serve, or name its socket with --socket", path)
			}
			return conn, err
		},
	}}}
}

// Close ends connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call makes a call with parameters, which are a struct with the fields that the call's New has. Result in the answer is
// a json.RawMessage, or nil. What the region refuses is a *Failure.
func (c *Client) Call(ctx context.Context, name string, in any, dry bool) (*Response, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "http", Host: "region", Path: "/v1/" + name, RawQuery: url.Values{"dry_run": {strconv.FormatBool(dry)}}.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
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
	defer res.Body.Close()
	var raw json.RawMessage
	r := &Response{Result: &raw}
	if err := decode(res, r); err != nil {
		return nil, err
	}
	r.Result = raw
	if raw == nil {
		r.Result = nil
	}
	return r, nil
}

// ErrNoLab: the region carries no packets.
var ErrNoLab = errors.New("the region carries no packets; start it with tidegate serve --lab")

// Machine is where the namespaces of an instance of a lab are: those of a thread of a process.
type Machine struct{ PID, TID int }

// Machine asks a region that is a lab for an instance, by its id, or the internet. What it refuses is a *Failure.
func (c *Client) Machine(ctx context.Context, name string) (Machine, error) {
	u := url.URL{Scheme: "http", Host: "region", Path: "/lab/" + name}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Machine{}, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if outer := (*url.Error)(nil); errors.As(err, &outer) {
			err = outer.Err
		}
		return Machine{}, err
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "application/json" { // nobody has heard of the path
		return Machine{}, ErrNoLab
	}
	var m Machine
	return m, decode(res, &m)
}

// decode reads an answer, or what was refused.
func decode(res *http.Response, into any) error {
	d := json.NewDecoder(res.Body)
	if res.StatusCode >= http.StatusBadRequest {
		f := &Failure{}
		if err := d.Decode(f); err != nil || f.Code == "" {
			return fmt.Errorf("the region answers %s", res.Status)
		}
		return f
	}
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the region broke off: %w", err)
	}
	return nil
}
