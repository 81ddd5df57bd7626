package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/voter"
)

var quiet = slog.New(slog.DiscardHandler)

// same compares states; a nil and an empty collection are the same.
func same(t *testing.T, want, got *State) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(State{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func life(n int, s Status) Entry {
	return Entry{Life: &Life{ID: cluster.LifeID(fmt.Sprintf("boot:%d:1", n)), Guest: "g", Status: s, HostBoot: "boot"}}
}

func certificate(n int, seq uint64) Entry {
	return Entry{Certificate: &cluster.DeathCertificate{Cluster: "c1", Guest: "g", Life: cluster.LifeID(fmt.Sprintf("boot:%d:1", n)), Seq: seq, Cause: cluster.CauseCrashed, Signature: []byte{1, 2}}}
}

// everything is one entry or more of each kind, in frames.
func everything() [][]Entry {
	return [][]Entry{
		{{HostBoot: "boot"}},
		{life(1, Here), {Claim: &Claim{Guest: "g", Cluster: "c1"}}},
		{life(1, Ended), certificate(1, 1)},
		{life(2, Here)},
		{life(3, Here)},
		{life(3, Left)},
		{{Leadership: &Leadership{Cluster: "c1", Incarnation: 2, Epoch: 7}}, {Decision: &Decision{Cluster: "c1", Incarnation: 2, ID: "d1", Action: "on", Guest: "g"}}},
		{{Decision: &Decision{Cluster: "c1", Incarnation: 2, ID: "d1", Action: "on", Guest: "g", Outcome: cluster.OutcomeDone, NewLife: "boot:2:1"}}},
		{{Voter: &Voter{Cluster: "c1", Node: "n2", Memory: voter.Memory{Incarnation: 2, Identity: "a", Run: "r", Count: 1}}}},
		{{Voter: &Voter{Cluster: "c1", Node: "n4", Guest: "g4", Elsewhere: true, Memory: voter.Memory{Incarnation: 2, Identity: "d", Run: "r", Count: 4}}}},
		{{Voter: &Voter{Cluster: "c1", Node: "n2", Memory: voter.Memory{Incarnation: 3, Identity: "b", Run: "s", Count: 9, Former: []string{"a"}}}}},
		{{Watch: WatchBegan}},
		{{Watch: WatchStopped}},
		{{Ack: &Ack{Seq: 1, Revision: 99}}},
		{life(4, Ended), certificate(4, 2)},
	}
}

func filled(t *testing.T, storage Storage) *Journal {
	t.Helper()
	j := open(t, storage)
	for _, entries := range everything() {
		if err := j.Append(entries...); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

func open(t *testing.T, storage Storage) *Journal {
	t.Helper()
	j, err := Open(storage, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestReopenGivesTheSameState(t *testing.T) {
	storage := &Memory{}
	j := filled(t, storage)
	same(t, j.State(), open(t, storage).State())
}

func TestRewritingKeepsTheState(t *testing.T) {
	storage := &Memory{}
	j := filled(t, storage)
	before := len(storage.Bytes())
	j.compact()
	if len(storage.Bytes()) >= before {
		t.Errorf("rewritten journal has %d bytes, had %d", len(storage.Bytes()), before)
	}
	same(t, j.State(), open(t, storage).State())
}

func TestAGrowingJournalIsRewritten(t *testing.T) {
	storage := &Memory{}
	j := open(t, storage)
	for i := range 20000 {
		if err := j.Append(Entry{Leadership: &Leadership{Cluster: "c1", Incarnation: 1, Epoch: cluster.Epoch(i + 1)}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(storage.Bytes()) > compactAtBytes {
		t.Errorf("journal has %d bytes after rewriting", len(storage.Bytes()))
	}
	if got := open(t, storage).State().Leaderships["c1"].Epoch; got != 20000 {
		t.Errorf("epoch %d, want 20000", got)
	}
}

func TestASmallJournalIsRewrittenWhereAskedTo(t *testing.T) {
	const from = 1000
	storage := &Memory{}
	j := open(t, storage)
	j.CompactFrom(from)
	for i := range 100 {
		if err := j.Append(Entry{Leadership: &Leadership{Cluster: "c1", Incarnation: 1, Epoch: cluster.Epoch(i + 1)}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(storage.Bytes()); got > 2*from {
		t.Errorf("journal has %d bytes after rewriting", got)
	}
	same(t, j.State(), open(t, storage).State())
}

func TestAWriteCutShortByACrashIsCutOff(t *testing.T) {
	storage := &Memory{}
	j := filled(t, storage)
	whole, before := len(storage.Bytes()), bytes.Clone(storage.Bytes())
	want := open(t, NewMemory(before)).State()
	if err := j.Append(life(9, Here)); err != nil {
		t.Fatal(err)
	}
	torn := bytes.Clone(storage.Bytes())
	for n := whole; n < len(torn); n++ {
		same(t, want, tornOpen{t, torn[:n], before}.open().State())
		zeros := append(bytes.Clone(torn[:n]), make([]byte, len(torn)-n)...)
		same(t, want, tornOpen{t, zeros, before}.open().State())
	}
}

// tornOpen opens torn bytes and checks that only the tail was cut.
type tornOpen struct {
	t          *testing.T
	data, want []byte
}

func (o tornOpen) open() *Journal {
	o.t.Helper()
	storage := NewMemory(o.data)
	j := open(o.t, storage)
	if !bytes.Equal(storage.Bytes(), o.want) {
		o.t.Fatalf("%d bytes are left of %d, want %d", len(storage.Bytes()), len(o.data), len(o.want))
	}
	return j
}

func TestEveryOtherDamageIsAnErrorWithFileAndOffset(t *testing.T) {
	storage := &Memory{}
	filled(t, storage)
	data := storage.Bytes()
	frames, _, err := decode(data)
	if err != nil || len(frames) != len(everything())+1 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	for i := range data {
		for _, flip := range []byte{0x01, 0x10} {
			bad := bytes.Clone(data)
			bad[i] ^= flip
			_, err := Open(NewMemory(bad), quiet)
			var damage *DamageError
			if !errors.As(err, &damage) {
				t.Fatalf("byte %d %q changed to %q: error %v", i, data[i], bad[i], err)
			}
			if damage.Offset > i {
				t.Fatalf("byte %d: damage at offset %d", i, damage.Offset)
			}
		}
	}
	zero := bytes.Clone(data)
	zero[100] = 0
	var damage *DamageError
	if _, err := Open(NewMemory(zero), quiet); !errors.As(err, &damage) {
		t.Errorf("a zero byte before intact frames: error %v", err)
	}
	_, err = Open(NewMemory(append([]byte("x"), data...)), quiet)
	const want = "journal memory is damaged at offset 0: no frame begins here; move it away to start with an empty journal: every earlier life then is unknown"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestAFailedAppendChangesNothing(t *testing.T) {
	storage := &Memory{}
	j := filled(t, storage)
	want := len(storage.Bytes())
	storage.SetFail(syscall.ENOSPC)
	err := j.Append(life(7, Here))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error %v", err)
	}
	if _, has := j.State().Lives["boot:7:1"]; has || len(storage.Bytes()) != want {
		t.Error("the failed entry has left something behind")
	}
	storage.SetFail(nil)
	if err := j.Append(life(7, Here)); err != nil {
		t.Fatal(err)
	}
	same(t, j.State(), open(t, storage).State())
}

func TestAFailedRewriteKeepsTheLongJournal(t *testing.T) {
	storage := &Memory{}
	j := filled(t, storage)
	storage.SetFail(syscall.ENOSPC)
	j.compact()
	storage.SetFail(nil)
	if err := j.Append(life(8, Here)); err != nil {
		t.Fatal(err)
	}
	same(t, j.State(), open(t, storage).State())
}

func TestAnEndedLifeNeverLivesAgain(t *testing.T) {
	j := open(t, &Memory{})
	for _, s := range []Status{Here, Ended, Here, Left} {
		if err := j.Append(life(1, s)); err != nil {
			t.Fatal(err)
		}
	}
	if got := j.State().Lives["boot:1:1"].Status; got != Ended {
		t.Errorf("status %s", got)
	}
}

func TestAnEpochNeverFalls(t *testing.T) {
	j := open(t, &Memory{})
	for _, l := range []Leadership{{"c", 1, 5}, {"c", 1, 4}, {"c", 0, 9}} {
		if err := j.Append(Entry{Leadership: &l}); err != nil {
			t.Fatal(err)
		}
	}
	if got := j.State().Leaderships["c"]; got != (Leadership{"c", 1, 5}) {
		t.Errorf("leadership %+v", got)
	}
}

func TestUnacknowledgedCertificatesAreAlwaysKept(t *testing.T) {
	storage := &Memory{}
	j := open(t, storage)
	total := closedLimit + 100
	for i := 1; i <= total; i++ {
		if err := j.Append(life(i, Ended), certificate(i, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(j.State().Since("c1", 1<<60)); got != total {
		t.Fatalf("%d of %d unacknowledged certificates are kept", got, total)
	}
	for i := 50; i < 60; i++ {
		if err := j.Append(Entry{Ack: &Ack{Seq: uint64(i), Revision: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Append(life(total+1, Ended), certificate(total+1, uint64(total+1))); err != nil {
		t.Fatal(err)
	}
	if _, has := j.State().BySeq(50); has {
		t.Error("the oldest acknowledged certificate is still there, beyond the bound")
	}
	if _, has := j.State().BySeq(49); !has {
		t.Error("an unacknowledged certificate is gone")
	}
	same(t, j.State(), open(t, storage).State())
}

func TestSinceRepeatsWhatIsBehindOrUnacknowledged(t *testing.T) {
	j := open(t, &Memory{})
	for i := 1; i <= 4; i++ {
		if err := j.Append(life(i, Ended), certificate(i, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Append(Entry{Ack: &Ack{Seq: 1, Revision: 3}}, Entry{Ack: &Ack{Seq: 4, Revision: 3}}); err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for _, c := range j.State().Since("c1", 3) {
		got = append(got, c.Seq)
	}
	if diff := cmp.Diff([]uint64{2, 3, 4}, got); diff != "" {
		t.Error(diff)
	}
	if got := j.State().Since("c2", 0); len(got) != 0 {
		t.Errorf("another cluster gets %d certificates", len(got))
	}
}

func TestDecisionsOfOneClusterAreBounded(t *testing.T) {
	j := open(t, &Memory{})
	for i := range decisionLimit + 1 {
		if err := j.Append(Entry{Decision: &Decision{Cluster: "c1", ID: fmt.Sprint(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, has := j.State().Decision("c1", 0, "0"); has {
		t.Error("the oldest decision is still there")
	}
	if _, has := j.State().Decision("c1", 0, "1"); !has {
		t.Error("a decision within the bound is gone")
	}
}

// A disk that lies about its last writes leaves an older journal, not a damaged
// one; the state is the one of that time.
func TestALostTailIsAnOlderJournal(t *testing.T) {
	all := everything()
	for lost := range all {
		storage, older := &Memory{}, &Memory{}
		filled(t, storage)
		storage.LoseFrames(lost)
		j := open(t, older)
		for _, entries := range all[:len(all)-lost] {
			if err := j.Append(entries...); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(older.Bytes(), storage.Bytes()) {
			t.Fatalf("%d frames lost: %d bytes are left, want %d", lost, len(storage.Bytes()), len(older.Bytes()))
		}
		same(t, j.State(), open(t, storage).State())
	}
	storage := &Memory{}
	filled(t, storage)
	whole := len(storage.Bytes())
	storage.LoseBytes(1)
	torn := open(t, storage)
	if _, has := torn.State().BySeq(2); has || len(storage.Bytes()) >= whole-1 {
		t.Error("half a frame counts")
	}
	storage.LoseFrames(1000)
	if len(storage.Bytes()) != 0 {
		t.Errorf("%d bytes are left of everything", len(storage.Bytes()))
	}
}

// FuzzOpen: whatever the bytes are, Open gives an error or a journal that
// reads the same again.
func FuzzOpen(f *testing.F) {
	storage := &Memory{}
	j, err := Open(storage, quiet)
	if err != nil {
		f.Fatal(err)
	}
	for _, entries := range everything() {
		if err := j.Append(entries...); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(storage.Bytes())
	f.Add(storage.Bytes()[:len(storage.Bytes())-7])
	f.Add(append(bytes.Clone(storage.Bytes()), 0, 0, 0))
	f.Add([]byte("00000002 00000000 []\n"))
	f.Add([]byte("ffffffff 00000000 []\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		storage := NewMemory(data)
		j, err := Open(storage, quiet)
		if err != nil {
			return
		}
		again, err := Open(storage, quiet)
		if err != nil {
			t.Fatal(err)
		}
		same(t, j.State(), again.State())
	})
}
