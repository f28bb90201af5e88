package tracing

import (
	"strconv"
	"strings"
	"time"
)

// The kinds of spans (SpanKind of opentelemetry/proto/trace/v1/trace.proto).
const (
	kindInternal = 1
	kindServer   = 2
)

// span is one thing that took time.
type span struct {
	name       string
	kind       int
	context    Context
	parent     spanID
	start, end time.Time
	attributes []attribute
	failure    string // "" if there was none
}

type attribute struct{ key, value string }

// maxText bounds a text of a span in bytes; builders choose some of them.
const maxText = 1024

func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "�")
}

// set adds an attribute, unless it says nothing.
func (s *span) set(key, value string) {
	if value != "" {
		s.attributes = append(s.attributes, attribute{key, clip(value)})
	}
}

// child begins a part of the span.
func (s *span) child(name string, now time.Time) *span {
	c := &span{name: clip(name), kind: kindInternal, context: s.context, parent: s.context.span, start: now}
	c.context.span = newSpan()
	return c
}

// The JSON of OTLP: the mapping of Protobuf, but ids are hexadecimal
// (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding").
type (
	exportJSON struct {
		ResourceSpans []resourceSpansJSON `json:"resourceSpans"`
	}
	resourceSpansJSON struct {
		Resource   resourceJSON     `json:"resource"`
		ScopeSpans []scopeSpansJSON `json:"scopeSpans"`
	}
	resourceJSON struct {
		Attributes []attributeJSON `json:"attributes"`
	}
	scopeSpansJSON struct {
		Scope scopeJSON  `json:"scope"`
		Spans []spanJSON `json:"spans"`
	}
	scopeJSON struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	spanJSON struct {
		TraceID    string          `json:"traceId"`
		SpanID     string          `json:"spanId"`
		TraceState string          `json:"traceState,omitempty"`
		Parent     string          `json:"parentSpanId,omitempty"`
		Flags      uint32          `json:"flags"`
		Name       string          `json:"name"`
		Kind       int             `json:"kind"`
		Start      string          `json:"startTimeUnixNano"`
		End        string          `json:"endTimeUnixNano"`
		Attributes []attributeJSON `json:"attributes,omitempty"`
		Status     statusJSON      `json:"status"`
	}
	attributeJSON struct {
		Key   string    `json:"key"`
		Value valueJSON `json:"value"`
	}
	valueJSON struct {
		String string `json:"stringValue"`
	}
	statusJSON struct {
		Message string `json:"message,omitempty"`
		Code    int    `json:"code,omitempty"`
	}
)

const statusError = 2 // STATUS_CODE_ERROR

func attributes(list []attribute) (all []attributeJSON) {
	for _, a := range list {
		all = append(all, attributeJSON{a.key, valueJSON{a.value}})
	}
	return all
}

func (s *span) json() spanJSON {
	j := spanJSON{
		TraceID: s.context.trace.String(), SpanID: s.context.span.String(), TraceState: s.context.state, Parent: s.parent.String(), Flags: 1,
		Name: s.name, Kind: s.kind, Start: strconv.FormatInt(s.start.UnixNano(), 10), End: strconv.FormatInt(s.end.UnixNano(), 10),
		Attributes: attributes(s.attributes),
	}
	if s.failure != "" {
		j.Status = statusJSON{Message: clip(s.failure), Code: statusError}
	}
	return j
}
