// Package pb holds the generated protobuf payloads of pkg/piece's envelopes.
// Only pkg/piece uses it; piece.proto is the source.
package pb

//go:generate protoc --go_out=. --go_opt=paths=source_relative piece.proto
