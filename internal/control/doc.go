// SPDX-License-Identifier: Apache-2.0

// Package control is how one looks at a gateway that runs, and changes it: what is sent over its unix socket, the client,
// and the text that people read.
//
// The protocol is HTTP/1.1 with JSON, so that curl will do:
//
//	curl --unix-socket /run/tidegate/tg-in.sock http://gateway/v1/stats
//
//	GET  /v1/flows     the sessions, a Flow a line; the parameters of Filter choose among them
//	GET  /v1/events    what becomes of them from now on, an Event a line, with the same parameters
//	GET  /v1/stats     Stats
//	GET  /v1/status    Status: whether packets can pass, and if not, why
//	GET  /v1/ports     Ports; top=N is how many destinations
//	GET  /v1/explain   Explanation of a packet that would come now, which changes nothing; its parameters are those of
//	                   ParseQuestion
//	POST /v1/reload    Reload; dry_run=true changes nothing
//	POST /v1/handover  for another gateway process, which takes over: see handover_linux.go of package gateway
//
// A request that is refused has a status of 400 or more and a Failure as its answer. Lines come as they are found: a
// million sessions take no memory on either side. An answer that is not taken for WriteTimeout is cut off, which the
// client sees as an unexpected end. 1:1 mappings keep no state, so they have no flows.
package control

import "time"

// The bounds of a server.
const (
	// WriteTimeout is how long the gateway waits for a client that does not read.
	WriteTimeout = time.Minute
	// MaxClients is how many connections there may be at once, MaxPasses how many of them may go through the sessions
	// (flows and ports) or ask for explanations, MaxWatchers how many may follow events. More are refused with 503.
	MaxClients, MaxPasses, MaxWatchers = 64, 4, 16
)

// Failure is the answer to a request that was refused: one sentence for each thing that is wrong.
type Failure struct {
	Errors []string `json:"errors"`
}
