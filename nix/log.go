package nix

// LogSink takes what a request gives off while it is carried out. Calls come
// from many goroutines; implementations must not block for long, and never call
// back into what they report on. What happens to one goal comes in order.
type LogSink interface {
	// BuildLog takes bytes that the builder of drv printed, as they come: a call
	// may have a part of a line or many lines. The slice is only lent. Messages
	// that builders write to the program (lines that begin with "@nix ") are
	// not among them: they come as events.
	BuildLog(drv StorePath, p []byte)
	// Event takes something that happened.
	Event(Event)
}

// EventKind says what an Event is about.
type EventKind uint8

// What can happen.
//
// A goal is a store object to be made: a derivation to be built, or an object to
// be fetched. Its events come as EventPlanned, then EventStarted or
// EventFetching, then EventFinished, with any of the others in between. Each but
// the last may be left out, and EventFinished may come for a goal that never
// started. A goal that was finished may begin again, as when a fetch failed and
// its derivation is built instead.
const (
	EventStarted    EventKind = iota + 1 // a builder starts: Message says on which machine, "" for this one
	EventFinished                        // the goal ended: Status has how, Message in a few words why it failed
	EventWaiting                         // a goal waits for what is no goal, as a lock: Message says for what; ended by the goal's next event
	EventPhase                           // a builder says that it enters a phase: Message
	EventWarning                         // something a person should know: Message
	EventNotice                          // something a person asked to be told: Message
	EventDiagnostic                      // something a person may want to know: Message
	EventPlanned                         // there is a goal, and it waits for Inputs; Expected, of one that is to be fetched
	EventFetching                        // the object Path begins to come from elsewhere: Message says from where; Expected
	EventTransfer                        // Done bytes have come, of Expected, for the goal Path: Message says what, if it is not Path itself
	EventResources                       // what the builder has used so far: Resources
)

// Event is one thing that happened to a goal. It is passed by value, and takers
// keep what they want of it; nobody changes what Inputs has after it was given.
type Event struct {
	Kind    EventKind
	Status  BuildStatus // EventFinished
	Path    StorePath   // the derivation or store object, "" when it is about none
	Message string      // may have any bytes a builder chose, but for EventFinished and EventStarted
	// Within is the derivation whose builder has asked for the goal by recursive Nix, ""
	// for a goal of the request itself.
	Within StorePath
	// Inputs are the goals that have to be finished before this one can start
	// (EventPlanned). Those of them that no event of their own comes for are
	// there already.
	Inputs []StorePath
	// Done and Expected count bytes (EventPlanned, EventFetching, EventTransfer). Expected is 0
	// when nobody knows.
	Done, Expected uint64
	Resources      *Resources // EventResources; nobody changes it
	Kept           string     // EventNotice: the id of a sandbox that it says is kept, "" for none
}
