package detect

import (
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

const sec = time.Second

// said is a word from a moment on.
type said struct {
	at   time.Duration
	word cluster.HostWord
}

const (
	running = cluster.WordRunning
	paused  = cluster.WordPaused
	moving  = cluster.HostWord("running, moving")
	stopped = cluster.HostWord("paused, moving") // for its last step
	off     = cluster.WordOff
	nothing = cluster.WordUnknown
)

// stretch is one row: the peer's last beat came at 0, unless beats says
// otherwise; suspect and lost are when it becomes that.
type stretch struct {
	words         []said
	beats         []time.Duration // also every interval up to the last one with until
	until         time.Duration   // beats at every interval up to then
	grace         time.Duration
	blind         bool
	suspect, lost time.Duration
}

var stretches = map[string]stretch{
	"no word":                  {suspect: 600 * ms, lost: 1200 * ms},
	"running":                  {words: []said{{0, running}}, suspect: 600 * ms, lost: 1200 * ms},
	"off is no reason to wait": {words: []said{{0, off}}, suspect: 600 * ms, lost: 1200 * ms},
	"paused":                   {words: []said{{0, paused}}, suspect: 3 * sec, lost: 3 * sec},
	"paused, long grace":       {words: []said{{0, paused}}, grace: 30 * sec, suspect: 30 * sec, lost: 30 * sec},
	"a grace is never shorter than the limits": {words: []said{{0, paused}}, grace: sec, blind: true, suspect: 1500 * ms, lost: 3 * sec},
	"paused while suspect":                     {words: []said{{sec, paused}}, suspect: 600 * ms, lost: 3 * sec},
	"unpaused in time, but not heard":          {words: []said{{0, paused}, {2 * sec, running}}, suspect: 2600 * ms, lost: 3200 * ms},
	"unpaused and heard":                       {words: []said{{0, paused}, {2 * sec, running}}, beats: []time.Duration{2500 * ms}, suspect: 3100 * ms, lost: 3700 * ms},
	"unpaused too late":                        {words: []said{{0, paused}, {5 * sec, running}}, suspect: 3 * sec, lost: 3 * sec},
	"paused again and again is one pause": {
		words: []said{{0, paused}, {sec, running}, {1500 * ms, paused}, {2500 * ms, running}, {2900 * ms, paused}, {3500 * ms, running}},
		// unpaused at 3.5 s, and by then silent for longer than the grace
		suspect: 3 * sec, lost: 3 * sec,
	},
	"the host that said paused is gone": {words: []said{{0, paused}, {2 * sec, nothing}}, suspect: 2 * sec, lost: 2 * sec},
	"gone after the pause":              {words: []said{{0, paused}, {2 * sec, running}, {2100 * ms, nothing}}, suspect: 2100 * ms, lost: 2100 * ms},

	"moving":                            {words: []said{{0, moving}}, suspect: 30 * sec, lost: 30 * sec},
	"moved":                             {words: []said{{0, moving}, {5 * sec, running}}, suspect: 7 * sec, lost: 7 * sec},
	"moved and heard":                   {words: []said{{0, moving}, {5 * sec, running}}, beats: []time.Duration{6 * sec}, suspect: 7 * sec, lost: 7200 * ms},
	"moved to where nobody says":        {words: []said{{0, moving}, {5 * sec, off}}, suspect: 7 * sec, lost: 7 * sec},
	"moved at the end of the cap":       {words: []said{{0, moving}, {29 * sec, running}}, suspect: 30 * sec, lost: 30 * sec},
	"the host that said moving is gone": {words: []said{{0, moving}, {5 * sec, nothing}}, suspect: 5 * sec, lost: 5 * sec},
	"gone in the margin":                {words: []said{{0, moving}, {5 * sec, running}, {6 * sec, nothing}}, suspect: 6 * sec, lost: 6 * sec},
	"back and moving: the same cap":     {words: []said{{0, moving}, {200 * ms, nothing}, {400 * ms, moving}}, suspect: 30 * sec, lost: 30 * sec},
	"renewed while it is not heard":     {words: []said{{0, moving}, {10 * sec, running}, {11 * sec, moving}, {25 * sec, running}, {26 * sec, moving}}, suspect: 30 * sec, lost: 30 * sec},
	"renewed within the margin": {
		words: []said{{0, moving}, {10 * sec, running}, {11 * sec, moving}}, until: 12 * sec,
		suspect: 30 * sec, lost: 30 * sec,
	},
	"silent at the end of a long move": {words: []said{{0, moving}}, until: 40 * sec, suspect: 40600 * ms, lost: 41200 * ms},
	"paused at the end of a long move": {words: []said{{0, moving}, {40 * sec, stopped}}, until: 40 * sec, suspect: 43 * sec, lost: 43 * sec},
	"paused for a short move":          {words: []said{{0, moving}, {5 * sec, stopped}, {9 * sec, running}}, until: 5 * sec, beats: []time.Duration{9500 * ms}, suspect: 11 * sec, lost: 11 * sec},
	"a second move": {
		words: []said{{0, moving}, {10 * sec, running}, {13 * sec, moving}}, until: 20 * sec,
		suspect: 43 * sec, lost: 43 * sec,
	},
	"a move that was paused before": {words: []said{{0, paused}, {2 * sec, moving}, {4 * sec, running}}, suspect: 6 * sec, lost: 6 * sec},
}

func TestWhatAHostSaysStretchesSilence(t *testing.T) {
	for name, tc := range stretches {
		t.Run(name, func(t *testing.T) {
			peer := Peer{Limits: HostAware(), PauseGrace: cluster.DefaultPauseGrace}
			if tc.grace != 0 {
				peer.PauseGrace = tc.grace
			}
			if tc.blind {
				peer.Limits = HostBlind()
			}
			first := map[cluster.Silence]time.Duration{}
			var d Detector
			for now := time.Duration(0); now <= 60*sec; now += Interval {
				for len(tc.words) > 0 && tc.words[0].at <= now {
					word, _, moves := strings.Cut(string(tc.words[0].word), ", ")
					peer.Word, peer.Moving, tc.words = cluster.HostWord(word), moves, tc.words[1:]
				}
				for _, at := range tc.beats {
					if at == now {
						d.Heard("a", now)
					}
				}
				if now <= tc.until {
					d.Heard("a", now)
				}
				silence := d.Tick(now, map[cluster.BootID]Peer{"a": peer}).Silent["a"]
				if silence == cluster.SilenceLost && first[cluster.SilenceSuspect] == 0 {
					first[cluster.SilenceSuspect] = now
				}
				if silence != "" && first[silence] == 0 {
					first[silence] = now
				}
			}
			if got := first[cluster.SilenceSuspect]; got != tc.suspect {
				t.Errorf("suspect after %v, want %v", got, tc.suspect)
			}
			if got := first[cluster.SilenceLost]; got != tc.lost {
				t.Errorf("lost after %v, want %v", got, tc.lost)
			}
		})
	}
}
