package tracing

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Settings say where spans go.
type Settings struct {
	Endpoint string // URL to post to
	Headers  map[string]string
	Timeout  time.Duration // for one request
	Delay    time.Duration // how long spans are gathered
	Resource map[string]string
	sampler  sampler
	shown    string // Endpoint without a password
}

// Defaults of the specification.
const (
	defaultTimeout = 10 * time.Second
	defaultDelay   = 5 * time.Second
)

// FromEnvironment reads the variables of OpenTelemetry, by getenv. on is false if none of
// them says where spans go. Warnings are about what has no effect here.
// (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables and
// …/protocol/exporter)
func FromEnvironment(getenv func(string) string) (s Settings, on bool, warnings []string, err error) {
	either := func(name string) string {
		return cmp.Or(getenv("OTEL_EXPORTER_OTLP_TRACES_"+name), getenv("OTEL_EXPORTER_OTLP_"+name))
	}
	s.Endpoint = getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if base := getenv("OTEL_EXPORTER_OTLP_ENDPOINT"); s.Endpoint == "" && base != "" {
		s.Endpoint = strings.TrimSuffix(base, "/") + "/v1/traces"
	}
	exporters := getenv("OTEL_TRACES_EXPORTER")
	if s.Endpoint == "" || strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") || exporters == "none" {
		return s, false, nil, nil
	}
	if exporters != "" && exporters != "otlp" {
		warnings = append(warnings, fmt.Sprintf("OTEL_TRACES_EXPORTER is '%s': spans go out by otlp only", exporters))
	}
	if p := either("PROTOCOL"); p == "grpc" {
		warnings = append(warnings, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc': spans go out by HTTP, for which collectors usually have port 4318")
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return s, false, nil, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT is no URL of http or https, as in http://collector:4318")
	}
	s.shown = u.Redacted()
	if s.Headers, err = pairs("OTEL_EXPORTER_OTLP_HEADERS", either("HEADERS")); err != nil {
		return s, false, nil, err
	}
	if s.Resource, err = pairs("OTEL_RESOURCE_ATTRIBUTES", getenv("OTEL_RESOURCE_ATTRIBUTES")); err != nil {
		return s, false, nil, err
	}
	s.Resource["service.name"] = cmp.Or(getenv("OTEL_SERVICE_NAME"), s.Resource["service.name"], "kiln")
	if s.Timeout, err = milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT", either("TIMEOUT"), defaultTimeout); err != nil {
		return s, false, nil, err
	}
	if s.Delay, err = milliseconds("OTEL_BSP_SCHEDULE_DELAY", getenv("OTEL_BSP_SCHEDULE_DELAY"), defaultDelay); err != nil {
		return s, false, nil, err
	}
	s.sampler, err = parseSampler(getenv("OTEL_TRACES_SAMPLER"), getenv("OTEL_TRACES_SAMPLER_ARG"))
	return s, err == nil, warnings, err
}

// pairs reads "name=value,…", with values as in URLs.
func pairs(variable, text string) (map[string]string, error) {
	m := make(map[string]string)
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil || strings.TrimSpace(name) == "" {
			// Not the value, which may be a secret.
			return nil, fmt.Errorf("%s: an entry is not of the form name=value", variable)
		}
		m[strings.TrimSpace(name)] = value
	}
	return m, nil
}

func milliseconds(variable, text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	const most = 24 * 60 * 60 * 1000
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%s is '%s', which is no number of milliseconds", variable, text)
	}
	return time.Duration(n) * time.Millisecond, nil
}

// A sampler says of which requests spans are sent.
type sampler struct {
	asParent bool    // who asks has decided, if it says so
	ratio    float64 // of the others
}

func parseSampler(name, arg string) (sampler, error) {
	rest, parent := strings.CutPrefix(name, "parentbased_")
	s := sampler{asParent: parent || name == ""}
	switch rest {
	case "", "always_on":
		s.ratio = 1
	case "always_off":
	case "traceidratio":
		s.ratio = 1
		if arg != "" {
			var err error
			if s.ratio, err = strconv.ParseFloat(arg, 64); err != nil || !(s.ratio >= 0 && s.ratio <= 1) {
				return s, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG is '%s', which is no number from 0 to 1", arg)
			}
		}
	default:
		return s, fmt.Errorf("OTEL_TRACES_SAMPLER is '%s': choose always_on, always_off, traceidratio, or one of them after 'parentbased_'", name)
	}
	return s, nil
}

func (s sampler) take(parent Context) bool {
	if parent.Valid() && s.asParent {
		return parent.sampled
	}
	id := parent.trace
	if !parent.Valid() {
		id = newTrace()
	}
	// Every service takes the same part of the ids.
	return float64(binary.BigEndian.Uint64(id[8:])>>1) < s.ratio*(1<<63)
}
