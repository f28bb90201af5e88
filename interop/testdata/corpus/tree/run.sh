#!/bin/sh
echo ran with "$0"
