package logline

import "strconv"

// Prefix begins each line.
const Prefix = "@nix "

// A Message is what one line says. Which fields have a meaning depends on
// Action; the others are zero.
type Message struct {
	Action Action
	ID     uint64   // Start, Stop, Result: which activity; its writer chose the number
	Parent uint64   // Start: the activity that this one is a part of, 0 for none
	Level  Level    // Start, Msg
	Type   Activity // Start
	Result Outcome  // Result
	Text   string   // Start: what is done, may be ""; Msg: the message, with escapes of terminals; SetPhase: the phase
	Raw    string   // Msg: an error's text without position and trace, "" when it is no error
	Fields []Field  // Start, Result: what belongs to Type or Result
}

// Action is the kind of a message.
type Action uint8

// The actions.
const (
	Start    Action = iota + 1 // an activity begins
	Stop                       // an activity ended
	Result                     // an activity has something to tell
	Msg                        // something for a person to read
	SetPhase                   // a builder enters a phase
)

var actions = [...]string{Start: "start", Stop: "stop", Result: "result", Msg: "msg", SetPhase: "setPhase"}

// String is the name that lines have for the action.
func (a Action) String() string {
	if a == 0 || int(a) >= len(actions) {
		return "action " + strconv.Itoa(int(a))
	}
	return actions[a]
}

// Level says how much somebody has to care to see a message: less for the lower.
type Level uint8

// The levels. Nix shows those up to Info unless it is asked for more or less.
const (
	Error Level = iota
	Warn
	Notice
	Info
	Talkative
	Chatty
	Debug
	Vomit
)

// Activity is what kind of thing is done.
type Activity uint64

// The activities, with the fields of the message that starts them.
const (
	Unknown       Activity = 0
	CopyPath      Activity = 100 // store path, from, to
	FileTransfer  Activity = 101 // URL
	Realise       Activity = 102
	CopyPaths     Activity = 103
	Builds        Activity = 104
	Build         Activity = 105 // derivation, machine or "", 1, 1
	OptimiseStore Activity = 106
	VerifyPaths   Activity = 107
	Substitute    Activity = 108 // store path, from
	QueryPathInfo Activity = 109 // store path, from
	PostBuildHook Activity = 110 // derivation
	BuildWaiting  Activity = 111 // nothing; or what is resolved, and what it resolved to
	FetchTree     Activity = 112
)

// Outcome is what an activity has to tell.
type Outcome uint64

// The outcomes, with their fields.
const (
	FileLinked       Outcome = 100 // bytes saved, blocks saved
	BuildLogLine     Outcome = 101 // a line that a builder printed
	UntrustedPath    Outcome = 102 // store path
	CorruptedPath    Outcome = 103 // store path
	PhaseSet         Outcome = 104 // the phase of a builder
	Progress         Outcome = 105 // done, expected, running, failed
	SetExpected      Outcome = 106 // an Activity, how many of it are expected, or how many bytes
	PostBuildLogLine Outcome = 107 // a line that a post-build hook printed
	FetchStatus      Outcome = 108 // a text for people
)

// A Field is a string or an unsigned integer.
type Field struct {
	Text  string // "" when IsInt
	Int   uint64 // 0 unless IsInt
	IsInt bool
}

// Text is a field that is a string.
func Text(s string) Field { return Field{Text: s} }

// Int is a field that is a number.
func Int(n uint64) Field { return Field{Int: n, IsInt: true} }
