// Package tracing tells a collector of OpenTelemetry what a build did: one span for the
// request, one for each goal, and in that what it waited for, its builder, and the phases
// of that. What a builder has built by recursive Nix is below the builder's span.
//
// Spans go out as OTLP in JSON over HTTP (opentelemetry.io/docs/specs/otlp), by the
// standard variables of the environment. The SDK of OpenTelemetry is not used: it would be
// in every program, and initialised with each start of it.
//
// Tracing never holds a build up: what cannot be sent in time is dropped, and counted.
package tracing
