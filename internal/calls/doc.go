// SPDX-License-Identifier: Apache-2.0

// Package calls is the table of what can be asked of a region, in the words of the EC2 API: the name of each call, its
// parameters, its answer, and what it does to the model. Command lines and servers are made from the table; here is also
// the server of a unix socket, and its client.
//
// The protocol is HTTP/1.1 with JSON, so that curl will do:
//
//	curl --unix-socket /run/tidegate/region.sock -d '{"AllocationId": "eipalloc-..."}' http://region/v1/ReleaseAddress
//
// The body has the parameters by their EC2 names, ?dry_run=true changes nothing. The answer is a Response. A request that
// is refused has a status of 400 or more and a Failure as its answer.
package calls
