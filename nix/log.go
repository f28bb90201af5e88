package nix

// LogSink takes what a request gives off while it is carried out. Calls come
// from many goroutines; implementations must not block for long, and never call
// back into what they report on.
type LogSink interface {
	// BuildLog takes bytes that the builder of drv printed, as they come: a call
	// may have a part of a line or many lines. The slice is only lent.
	BuildLog(drv StorePath, p []byte)
	// Event takes something that happened.
	Event(Event)
}

// EventKind says what an Event is about.
type EventKind uint8

// What can happen.
const (
	EventStarted    EventKind = iota + 1 // a builder starts
	EventFinished                        // it ended; Status has how
	EventWaiting                         // a goal waits: Message says for what
	EventPhase                           // a builder says that it enters a phase: Message
	EventWarning                         // something a person should know: Message
	EventNotice                          // something a person asked to be told: Message
	EventDiagnostic                      // something a person may want to know: Message
)

// Event is one thing that happened to a goal.
type Event struct {
	Kind    EventKind
	Path    StorePath // the derivation or store object, "" when it is about none
	Message string
	Status  BuildStatus // EventFinished
}
