package executor

import (
	"sync"

	"github.com/kilnbuild/kiln/store/local"
)

// A hold keeps what a request has found and made from being collected: in its own
// lease of the store, as long as the request, a goal that it has begun, or another
// request that waited for such a goal goes on; and so, for as long as the first two,
// in those of requests whose goals it waited for.
type hold struct {
	mu      sync.Mutex
	active  int // the request, and the goals that it has begun
	others  int // holds that depend on this one
	release func()
	needs   []*hold
}

// init begins the hold of a request, which is to end it.
func (h *hold) init(st *local.Store) { h.active, h.release = 1, st.Hold() }

// begin is called when a goal begins, and to be followed by end.
func (h *hold) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.active++
}

func (h *hold) end() {
	h.mu.Lock()
	h.active--
	var needs []*hold
	if h.active == 0 {
		needs, h.needs = h.needs, nil
	}
	h.finish()
	for _, other := range needs {
		other.mu.Lock()
		other.others--
		other.finish()
	}
}

// depend keeps what another hold does, which is active. h is active, too.
func (h *hold) depend(other *hold) {
	if h == other {
		return
	}
	h.mu.Lock()
	for _, known := range h.needs {
		if known == other {
			h.mu.Unlock()
			return
		}
	}
	h.needs = append(h.needs, other)
	h.mu.Unlock()
	other.mu.Lock()
	defer other.mu.Unlock()
	other.others++
}

// finish gives back the lease if nobody needs it, and unlocks the hold.
func (h *hold) finish() {
	over := h.active == 0 && h.others == 0
	h.mu.Unlock()
	if over {
		h.release()
	}
}
