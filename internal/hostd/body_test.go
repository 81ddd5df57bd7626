package hostd

import (
	"net/http/httptest"
	"strings"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/hostapi"
)

// FuzzOrder: whatever a client sends, what passes the checks is bounded and
// names its subject.
func FuzzOrder(f *testing.F) {
	f.Add("off", `{"cluster":"alpha","incarnation":1,"epoch":1,"decision":"d","life":"l"}`)
	f.Add("on", `{"cluster":"alpha","incarnation":1,"epoch":1,"decision":"d"}`)
	f.Add("off", `{"epoch":-1}`)
	f.Add("off", `{"epoch":1,"decision":"d","life":"l"} {}`)
	f.Add("pause", `null`)
	f.Fuzz(func(t *testing.T, action, body string) {
		o := Order{Action: action, Guest: g1}
		if readBody(httptest.NewRequest("POST", "/", strings.NewReader(body)), &o.Order) != nil || o.Check() != nil {
			return
		}
		if o.Epoch == 0 || o.Decision == "" || len(o.Decision) > decisionLimitBytes || len(o.Life) > lifeLimitBytes || (o.Life == "") != (action == hostapi.ActionOn) {
			t.Errorf("%s %+v passes", action, o.Order)
		}
	})
}

// FuzzBind: the same for a guest's own channel.
func FuzzBind(f *testing.F) {
	f.Add(`{"cluster":"alpha","node":"db1","boot":"b","nonce":"n"}`)
	f.Add(`{"cluster":"alpha","node":"db1","boot":"b","nonce":"n","life":"l"}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, body string) {
		var r hostapi.BindRequest
		if readBody(httptest.NewRequest("POST", "/", strings.NewReader(body)), &r) != nil || checkBind(r) != nil {
			return
		}
		if cluster.CheckName(string(r.Cluster)) != nil || r.Boot == "" || r.Nonce == "" || len(r.Nonce) > nonceLimitBytes {
			t.Errorf("%+v passes", r)
		}
	})
}

func TestBodiesThatAreRefused(t *testing.T) {
	for name, body := range map[string]string{
		"too long":          `{"decision":"` + strings.Repeat("d", hostapi.BodyLimitBytes) + `"}`,
		"two values":        `{} {}`,
		"an unknown field":  `{"force":true}`,
		"another type":      `{"epoch":"1"}`,
		"cut short":         `{"epoch":1`,
		"nothing":           ``,
		"an epoch below 0":  `{"epoch":-1}`,
		"an epoch too high": `{"epoch":18446744073709551616}`,
	} {
		var o hostapi.Order
		err := readBody(httptest.NewRequest("POST", "/", strings.NewReader(body)), &o)
		if code(err) != hostapi.CodeBadRequest {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
