package record

import "testing"

func TestRecorderTakesLinesInPieces(t *testing.T) {
	r := New("")
	const lines = `{"ready":true}
{"answer":{"sent":1,"done":2,"from":{"node":"n1","boot":"b","generation":1,"run":"r"}}}
{"answer":{"sent":3,"done":4,"failure":"refused"}}
{"answer":{"sent":5,"done":6,"from":{"node":"n1","boot":"b","generation":1,"run":"r"}}}
{"claim":{"at":7,"mac":"m","kind":"reply"}}
`
	for i := range lines {
		if _, err := r.Write([]byte(lines[i : i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, inRow := r.Answering()
	if id.Node != "n1" || inRow != 2 || r.Steadily() != 1 || len(r.answers) != 3 || len(r.claims) != 1 {
		t.Errorf("%v answered %d times; %d answers, %d claims", id, inRow, len(r.answers), len(r.claims))
	}
}

func TestRecorderGivesUpOnNonsense(t *testing.T) {
	r := New("")
	if _, err := r.Write([]byte("nonsense\n")); err == nil {
		t.Error("nonsense was taken")
	}
	if err := r.AwaitReady(t.Context()); err == nil {
		t.Error("ready after nonsense")
	}
}
