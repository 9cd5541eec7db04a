mod access;
mod accounts;
mod bad_input;
mod containers;
mod copies;
mod crash;
mod databases;
mod objects;
