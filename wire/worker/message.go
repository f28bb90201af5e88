package worker

import (
	"fmt"

	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/wire"
)

// The messages that a server sends while it carries out a request.
const (
	msgNext          = 0x6f6c6d67
	msgRead          = 0x64617461
	msgWrite         = 0x64617416
	msgLast          = 0x616c7473
	msgError         = 0x63787470
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54
)

// Next writes a message for a person. text ends with a newline.
func (e *Encoder) Next(text string) {
	e.Uint64(msgNext)
	e.Text(text)
}

// AskForData writes that the client shall send a string of at most n bytes, and
// flushes.
func (e *Encoder) AskForData(n int) error {
	e.Uint64(msgRead)
	e.Uint64(uint64(n))
	return e.Flush()
}

// Data writes a piece of what the client has asked for (ExportPath).
func (e *Encoder) Data(p []byte) error {
	e.Uint64(msgWrite)
	e.Bytes(p)
	return e.Err()
}

// Last writes that the request was carried out: the reply follows.
func (e *Encoder) Last() { e.Uint64(msgLast) }

// Activity writes a message about an activity: one with the action Start, Stop or
// Result. Any other is a mistake of the caller, and writes nothing.
func (e *Encoder) Activity(m *logline.Message) {
	switch m.Action {
	case logline.Start:
		e.Uint64(msgStartActivity)
		e.Uint64(m.ID)
		e.Uint64(uint64(m.Level))
		e.Uint64(uint64(m.Type))
		e.Text(m.Text)
		e.fields(m.Fields)
		e.Uint64(m.Parent)
	case logline.Stop:
		e.Uint64(msgStopActivity)
		e.Uint64(m.ID)
	case logline.Result:
		e.Uint64(msgResult)
		e.Uint64(m.ID)
		e.Uint64(uint64(m.Result))
		e.fields(m.Fields)
	}
}

func (e *Encoder) fields(fields []logline.Field) {
	wire.WriteList(e.Writer, fields, func(f logline.Field) {
		if f.IsInt {
			e.Uint64(0)
			e.Uint64(f.Int)
		} else {
			e.Uint64(1)
			e.Text(f.Text)
		}
	})
}

func (d *Decoder) fields() []logline.Field {
	return wire.List(d.Reader, func() logline.Field {
		if d.Number(1) == 0 {
			return logline.Int(d.Uint64())
		}
		return logline.Text(d.Text())
	})
}

// An Error is what a server says instead of a reply.
type Error struct {
	Message string   // in full, without "error:" before it
	Status  int      // the exit status for the client's program; newer versions do not send it
	Traces  []string // what was being done, the innermost first; older versions do not have them
}

func (e *Error) Error() string { return e.Message }

// errorType is the only type of errors that clients accept.
const errorType = "Error"

// Error writes that the request failed. No reply follows.
func (e *Encoder) Error(err *Error) {
	e.Uint64(msgError)
	if !e.since(26) {
		e.Text("error: " + err.Message)
		e.Uint64(uint64(max(err.Status, 1)))
		return
	}
	e.Text(errorType)
	e.Uint64(uint64(logline.Error))
	e.Text(errorType)
	e.Text(err.Message)
	e.Uint64(0) // no position
	wire.WriteList(e.Writer, err.Traces, func(hint string) {
		e.Uint64(0)
		e.Text(hint)
	})
}

func (d *Decoder) error() *Error {
	if !d.since(26) {
		return &Error{Message: d.Text(), Status: int(d.Number(255))}
	}
	if kind := d.Text(); d.Err() == nil && kind != errorType {
		d.Fail(fmt.Errorf("read error of daemon: '%.100s' is no type of errors", kind))
	}
	d.Uint64()
	d.Text()
	err := &Error{Message: d.Text(), Status: 1}
	d.Number(0)
	err.Traces = wire.List(d.Reader, func() string {
		d.Number(0)
		return d.Text()
	})
	return err
}

// A Listener takes what a server says while it carries out a request. Each of its
// functions may be nil.
type Listener struct {
	Next     func(text string)
	Activity func(*logline.Message)
	// Data gives bytes that the server asks for, at most n, none at their end.
	Data func(n int) ([]byte, error)
	// Write takes bytes that the server sends before its reply.
	Write func(p []byte) error
}

// ReadMessages reads messages up to the last one. If that is an error, it is
// returned as an *Error; otherwise the reply follows.
func ReadMessages(d *Decoder, e *Encoder, l Listener) error {
	for {
		d.Begin()
		kind := d.Uint64()
		if err := d.Err(); err != nil {
			return fmt.Errorf("read message of daemon: %w", err)
		}
		last, err := d.message(kind, e, l)
		if err == nil {
			err = d.Err()
		}
		if last || err != nil {
			return err
		}
	}
}

func (d *Decoder) message(kind uint64, e *Encoder, l Listener) (last bool, err error) {
	switch kind {
	case msgLast:
		return true, nil
	case msgError:
		failure := d.error()
		if err := d.Err(); err != nil {
			return true, err
		}
		return true, failure
	case msgNext:
		if text := d.Text(); l.Next != nil && d.Err() == nil {
			l.Next(text)
		}
	case msgRead:
		n := d.Number(1 << 30)
		if l.Data == nil {
			return true, fmt.Errorf("read message of daemon: it wants data, and there is none")
		}
		p, err := l.Data(int(n))
		if err != nil {
			return true, err
		}
		e.Bytes(p)
		return false, e.Flush()
	case msgWrite:
		if p := d.Bytes(); l.Write != nil && d.Err() == nil {
			return false, l.Write(p)
		}
	case msgStartActivity, msgStopActivity, msgResult:
		m := d.activity(kind)
		if l.Activity != nil && d.Err() == nil {
			l.Activity(m)
		}
	default:
		return true, fmt.Errorf("read message of daemon: there is none with the number %#x", kind)
	}
	return false, nil
}

func (d *Decoder) activity(kind uint64) *logline.Message {
	m := &logline.Message{ID: d.Uint64()}
	switch kind {
	case msgStartActivity:
		m.Action = logline.Start
		m.Level = logline.Level(d.Number(uint64(logline.Vomit)))
		m.Type = logline.Activity(d.Uint64())
		m.Text, m.Fields = d.Text(), d.fields()
		m.Parent = d.Uint64()
	case msgStopActivity:
		m.Action = logline.Stop
	case msgResult:
		m.Action = logline.Result
		m.Result, m.Fields = logline.Outcome(d.Uint64()), d.fields()
	}
	return m
}
