// Package pb holds the generated protobuf code of the swarm protocols.
// Its job ends at encoding: pkg/p2p checks every bound before it hands a
// message on. Only pkg/p2p imports it.
package pb

//go:generate protoc --go_out=. --go_opt=paths=source_relative swarm.proto
