package cluster_test

import (
	"reflect"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// A field that Equal forgot would let a service go on with an old definition.
func TestResourcesThatDifferInAnyFieldAreNotEqual(t *testing.T) {
	params := map[string]string{"command": "a"}
	one := cluster.Resource{Name: "r", Agent: "exec", Params: params, StartTimeout: 1, StopTimeout: 2, MonitorTimeout: 3, MonitorInterval: 4}
	same := one
	same.Params = map[string]string{"command": "a"}
	if !one.Equal(same) {
		t.Error("a resource is not equal to its copy")
	}
	for field := range reflect.TypeFor[cluster.Resource]().Fields() {
		other := one
		switch v := reflect.ValueOf(&other).Elem().FieldByIndex(field.Index); v.Interface().(type) {
		case string:
			v.SetString("other")
		case time.Duration:
			v.SetInt(9)
		case map[string]string:
			v.Set(reflect.ValueOf(map[string]string{"command": "b"}))
		default:
			t.Fatalf("%s: this test has no other value for it", field.Name)
		}
		if one.Equal(other) || other.Equal(one) {
			t.Errorf("resources that differ in %s are equal", field.Name)
		}
	}
}

func TestNoParametersAndAnEmptyListOfThemAreEqual(t *testing.T) {
	if !(cluster.Resource{}).Equal(cluster.Resource{Params: map[string]string{}}) {
		t.Error("an empty list of parameters is taken for a change")
	}
}
