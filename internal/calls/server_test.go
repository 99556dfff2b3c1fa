// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// fullDisk is a journal that takes the first commit alone.
type fullDisk struct{ commits int }

func (*fullDisk) Records() ([]vpc.Record, error) { return nil, nil }

func (f *fullDisk) Commit([]vpc.Record) error {
	if f.commits++; f.commits > 1 {
		return errors.New("no space left on device")
	}
	return nil
}

func TestHandler(t *testing.T) {
	open := func(j region.Journal) http.Handler {
		r, err := region.Open(region.Options{
			Config:  vpc.Config{Seed: 1, PublicPool: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}},
			Journal: j, Engines: region.NewEngineSet(nat.Config{Sessions: 64}, nil),
		})
		if err != nil {
			t.Fatal(err)
		}
		return Handler(r, slog.New(slog.DiscardHandler))
	}
	h, full := open(nil), open(&fullDisk{})
	for _, c := range []struct {
		name         string
		h            http.Handler
		method, path string
		body         string
		status       int
		want         string
	}{
		{"a call", h, "POST", "/v1/CreateVpc", `{"CidrBlock":"10.0.0.0/16"}`, 200, `"VpcId":"vpc-`},
		{"without parameters", h, "POST", "/v1/AllocateAddress", "", 200, `{"Result":{"PublicIp":"198.51.100.0","AllocationId":"eipalloc-`},
		{"dry", h, "POST", "/v1/AllocateAddress?dry_run=true", "{}", 200, `"DryRun":true`},
		{"what changes sessions", h, "POST", "/v1/CreateVpc", `{"CidrBlock":"10.0.0.0/16"}`, 200, `"Impact":{"vpc-`},
		{"without content", h, "POST", "/v1/RebootInstances", `{"InstanceIds":["i-0"]}`, 400, `{"Code":"InvalidInstanceID.NotFound"`},
		{"a dry run that was none", h, "POST", "/v1/DescribeAddresses?dry_run=maybe", "{}", 400, `{"Code":"InvalidParameterValue"`},
		{"after it", h, "POST", "/v1/DescribeAddresses", "{}", 200, `{"Result":{"Addresses":[{"PublicIp":"198.51.100.0","AllocationId":"eipalloc-`},
		{"no such call", h, "POST", "/v1/CreateMoon", "{}", 400, `{"Code":"InvalidAction"`},
		{"no such parameter", h, "POST", "/v1/CreateVpc", `{"Cidr":"10.0.0.0/16"}`, 400, `{"Code":"UnknownParameter"`},
		{"a parameter less", h, "POST", "/v1/CreateVpc", `{}`, 400, `{"Code":"MissingParameter","Message":"the request must have the parameter CidrBlock"}`},
		{"no prefix", h, "POST", "/v1/CreateVpc", `{"CidrBlock":"ten"}`, 400, `{"Code":"InvalidParameterValue"`},
		{"no JSON", h, "POST", "/v1/CreateVpc", `CidrBlock=10.0.0.0/16`, 400, `{"Code":"InvalidParameterValue"`},
		{"endless", h, "POST", "/v1/CreateVpc", `{"CidrBlock":"` + strings.Repeat("1", maxBody) + `"}`, 400, `{"Code":"InvalidParameterValue"`},
		{"GET", h, "GET", "/v1/DescribeAddresses", "", 405, ""},
		{"a full disk", full, "POST", "/v1/AllocateAddress", "", 500, `{"Code":"InternalError","Message":"the change could not be saved, and is undone: no space`},
		{"which leaves nothing", full, "POST", "/v1/DescribeAddresses", "", 200, `{"Result":{"Addresses":[]}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			c.h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
				t.Errorf("%d %s\nwant %d %s", w.Code, w.Body, c.status, c.want)
			}
		})
	}
}

// The table is fit for the command line and for servers: names are unique, parameters have help and are read from JSON
// and written as JSON without loss.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for i := range Table {
		c := &Table[i]
		if seen[c.Name] || c.Help == "" || Find(c.Name) != c || c.Reads != (strings.HasPrefix(c.Name, "Describe") || strings.HasPrefix(c.Name, "Get")) {
			t.Errorf("%s: twice, without help, or not what its name says", c.Name)
		}
		seen[c.Name] = true
		in := reflect.TypeOf(c.New()).Elem()
		for j := range in.NumField() {
			if f := in.Field(j); f.Tag.Get("help") == "" || f.Tag.Get("json") != "" {
				t.Errorf("%s: %s has no help, or another name in JSON", c.Name, f.Name)
			}
		}
		again := c.New()
		if b, err := json.Marshal(again); err != nil || json.Unmarshal(b, again) != nil || !reflect.DeepEqual(again, c.New()) {
			t.Errorf("%s: its parameters are lost on the way", c.Name)
		}
	}
	if got := Find("AssociateVpcCidrBlock").Command(); got != "associate-vpc-cidr-block" {
		t.Error(got)
	}
}
