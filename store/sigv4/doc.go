// Package sigv4 signs HTTP requests as Amazon's services and those that speak like them
// want it (AWS Signature Version 4, "Authenticating Requests" in the S3 API Reference), and
// finds the credentials to do so where their programs keep them.
package sigv4
